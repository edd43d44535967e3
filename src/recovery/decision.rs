//! The decision tables of opening: what is done about each combination of what can be found.
//!
//! Pure functions over small enums. Each table is a list of rows with wildcards; a test enumerates every combination
//! and proves that exactly one row matches it. What an action does is `recovery`'s business.

/// What a directory holds, before anything is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DirectoryFacts {
    pub(crate) exists: bool,
    /// Any file that is not ours.
    pub(crate) foreign: bool,
    pub(crate) manifests: Manifests,
    /// Any segment file.
    pub(crate) segments: bool,
}

/// What the two copies of the manifest amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manifests {
    /// No copy holds a byte that is not zero.
    Nothing,
    /// A copy that was never finished, or damage; none is whole.
    Broken,
    /// A copy begins like the file of another program, and none is whole.
    Alien,
    /// At least one copy is whole.
    Whole,
    /// A copy asks for a newer reader.
    Newer,
}

/// What to do with a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DirectoryAction {
    /// Nothing was ever stored here: make a store.
    Create,
    /// Open the store.
    Open,
    /// Refuse: another program's files.
    RefuseForeign,
    /// Refuse: a newer format.
    RefuseNewer,
    /// Refuse: there are segments, and no manifest says what they are.
    RefuseLost,
}

/// A wildcard or a value.
fn fits<T: PartialEq>(row: Option<T>, fact: T) -> bool {
    row.is_none_or(|row| row == fact)
}

type DirectoryRow = (Option<bool>, Option<bool>, Option<Manifests>, Option<bool>, DirectoryAction);

/// exists, foreign, manifests, segments: action.
const DIRECTORY: [DirectoryRow; 10] = {
    use DirectoryAction::{Create, Open, RefuseForeign, RefuseLost, RefuseNewer};
    use Manifests::{Alien, Broken, Newer, Nothing, Whole};
    const Y: Option<bool> = Some(true);
    const N: Option<bool> = Some(false);
    [
        (N, None, None, None, Create),
        // The manifest is durable before there is a first segment, so without segments nothing was ever stored.
        (Y, N, Some(Nothing), N, Create),
        (Y, Y, Some(Nothing), N, RefuseForeign),
        (Y, N, Some(Broken), N, Create),
        (Y, Y, Some(Broken), N, RefuseForeign),
        (Y, None, Some(Nothing), Y, RefuseLost),
        (Y, None, Some(Broken), Y, RefuseLost),
        (Y, None, Some(Alien), None, RefuseForeign),
        (Y, None, Some(Whole), None, Open),
        (Y, None, Some(Newer), None, RefuseNewer),
    ]
};

/// Decides about a directory.
pub(crate) fn directory(facts: DirectoryFacts) -> DirectoryAction {
    DIRECTORY
        .iter()
        .find(|row| directory_fits(row, facts))
        .map(|row| row.4)
        .expect("the table covers every combination")
}

fn directory_fits(row: &DirectoryRow, facts: DirectoryFacts) -> bool {
    fits(row.0, facts.exists)
        && fits(row.1, facts.foreign)
        && fits(row.2, facts.manifests)
        && fits(row.3, facts.segments)
}

/// A segment file that the manifest does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnlistedFacts {
    pub(crate) header: UnlistedHeader,
    /// Whether anything but zeros lies behind the header.
    pub(crate) written: bool,
    /// Whether both copies of the manifest are whole, or one is and says that nothing was written since.
    pub(crate) both_copies: bool,
    /// Whether its number is one that the manifest has not given out yet.
    pub(crate) beyond: bool,
}

/// Whose header an unlisted segment has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnlistedHeader {
    Ours,
    /// Compaction's, and the manifest names every segment that it was made from.
    Copies,
    /// Compaction's, and of what it was made from not everything is there.
    Survivors,
    Foreign,
    Newer,
    Damaged,
}

/// What to do with a segment file that the manifest does not name. None of them loses a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnlistedAction {
    /// It was made and not yet named: use it.
    AdoptBlank,
    /// The damaged copy of the manifest may have named it: it is part of the log.
    AdoptWritten,
    /// It was part of the store and is no longer: give it another name.
    SetAside,
    /// It repeats what is in named segments: compaction was interrupted before the manifest named it.
    Remove,
    /// Refuse to open.
    RefuseForeign,
    /// Refuse to open.
    RefuseNewer,
    /// Refuse to open.
    RefuseDamaged,
}

type UnlistedRow = (Option<UnlistedHeader>, Option<bool>, Option<bool>, Option<bool>, UnlistedAction);

/// header, written, both copies whole, beyond the numbers given out: action.
const UNLISTED: [UnlistedRow; 10] = {
    use UnlistedAction::{
        AdoptBlank, AdoptWritten, RefuseDamaged, RefuseForeign, RefuseNewer, Remove, SetAside,
    };
    use UnlistedHeader::{Copies, Damaged, Foreign, Newer, Ours, Survivors};
    const Y: Option<bool> = Some(true);
    const N: Option<bool> = Some(false);
    [
        (Some(Foreign), None, None, None, RefuseForeign),
        (Some(Newer), None, None, None, RefuseNewer),
        (Some(Damaged), None, None, None, RefuseDamaged),
        // What it was made from is given up only after both copies of the manifest name it.
        (Some(Copies), None, None, None, Remove),
        (Some(Survivors), None, None, N, SetAside),
        (Some(Survivors), None, None, Y, RefuseDamaged),
        (Some(Ours), N, None, None, AdoptBlank),
        (Some(Ours), Y, None, N, SetAside),
        (Some(Ours), Y, N, Y, AdoptWritten),
        // Records are only ever written to a segment that both copies name.
        (Some(Ours), Y, Y, Y, RefuseDamaged),
    ]
};

/// Decides about a segment file that the manifest does not name.
pub(crate) fn unlisted(facts: UnlistedFacts) -> UnlistedAction {
    UNLISTED
        .iter()
        .find(|row| unlisted_fits(row, facts))
        .map(|row| row.4)
        .expect("the table covers every combination")
}

fn unlisted_fits(row: &UnlistedRow, facts: UnlistedFacts) -> bool {
    fits(row.0, facts.header)
        && fits(row.1, facts.written)
        && fits(row.2, facts.both_copies)
        && fits(row.3, facts.beyond)
}

/// Where and why a walk over a segment of the log stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StopFacts {
    pub(crate) known: Known,
    pub(crate) next: NextSegment,
    pub(crate) behind: Behind,
    /// Whether a record beyond the stop is known to have been durable.
    pub(crate) durable_missing: bool,
}

/// What the manifest knows of the segment's end, and how the stop compares with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    SealedBefore,
    SealedAt,
    CutBefore,
    CutAt,
    /// The last segment of a store that was closed, and nothing has been written since.
    CleanBefore,
    CleanAt,
    /// Nothing.
    Open,
}

/// How the next written segment of the log goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextSegment {
    /// There is none.
    None,
    /// It begins by saying that the log before it ends here.
    Continues,
    /// It says something else, or its first record is not there.
    Elsewhere,
}

/// What lies in the segment behind the stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behind {
    /// Zeros.
    Nothing,
    /// Bytes that are no complete record: a torn write.
    Torn,
    /// Complete valid records.
    Frames,
}

/// What a stop means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopAction {
    /// Go on with the next segment.
    Continue,
    /// The log ends here as its writer left it.
    End,
    /// The log is cut here: what lies behind was never durable. Complete records behind it are set aside.
    Cut,
    /// Durable data is damaged: refuse.
    Damage,
}

type StopRow = (Option<Known>, Option<NextSegment>, Option<Behind>, Option<bool>, StopAction);

/// known, next, behind, durable record missing: action.
const STOP: [StopRow; 27] = {
    use Behind::{Frames, Nothing, Torn};
    use Known::{CleanAt, CleanBefore, CutAt, CutBefore, Open, SealedAt, SealedBefore};
    use NextSegment::{Continues, Elsewhere, None as Last};
    use StopAction::{Continue, Cut, Damage, End};
    const Y: Option<bool> = Some(true);
    const N: Option<bool> = Some(false);
    const ANY: Option<Behind> = None;
    [
        // A sealed segment is durable up to its end.
        (Some(SealedBefore), None, ANY, None, Damage),
        (Some(SealedAt), Some(Continues), ANY, None, Continue),
        (Some(SealedAt), Some(Last), ANY, N, End),
        (Some(SealedAt), Some(Last), ANY, Y, Damage),
        (Some(SealedAt), Some(Elsewhere), ANY, N, Cut),
        (Some(SealedAt), Some(Elsewhere), ANY, Y, Damage),
        // After a clean close everything is durable, and there is nothing behind.
        (Some(CleanBefore), None, ANY, None, Damage),
        (Some(CleanAt), Some(Last), Some(Nothing), N, End),
        (Some(CleanAt), Some(Last), Some(Torn), N, Damage),
        (Some(CleanAt), Some(Last), Some(Frames), N, Damage),
        (Some(CleanAt), Some(Last), ANY, Y, Damage),
        (Some(CleanAt), Some(Continues), ANY, None, Damage),
        (Some(CleanAt), Some(Elsewhere), ANY, None, Damage),
        // A cut segment was read once; what was above the durable point then may be gone now.
        (Some(CutBefore), None, ANY, N, Cut),
        (Some(CutBefore), None, ANY, Y, Damage),
        (Some(CutAt), Some(Continues), ANY, None, Continue),
        (Some(CutAt), Some(Last), ANY, N, End),
        (Some(CutAt), Some(Last), ANY, Y, Damage),
        (Some(CutAt), Some(Elsewhere), ANY, N, Cut),
        (Some(CutAt), Some(Elsewhere), ANY, Y, Damage),
        // An open segment ends where its records do.
        (Some(Open), Some(Continues), ANY, None, Continue),
        (Some(Open), Some(Last), Some(Nothing), N, End),
        (Some(Open), Some(Last), Some(Torn), N, Cut),
        (Some(Open), Some(Last), Some(Frames), N, Cut),
        (Some(Open), Some(Elsewhere), ANY, N, Cut),
        (Some(Open), Some(Last), ANY, Y, Damage),
        (Some(Open), Some(Elsewhere), ANY, Y, Damage),
    ]
};

/// Decides what a stop means.
pub(crate) fn stop(facts: StopFacts) -> StopAction {
    STOP.iter()
        .find(|row| stop_fits(row, facts))
        .map(|row| row.4)
        .expect("the table covers every combination")
}

fn stop_fits(row: &StopRow, facts: StopFacts) -> bool {
    fits(row.0, facts.known)
        && fits(row.1, facts.next)
        && fits(row.2, facts.behind)
        && fits(row.3, facts.durable_missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOLS: [bool; 2] = [false, true];

    #[test]
    fn exactly_one_row_decides_about_any_directory() {
        use Manifests::{Alien, Broken, Newer, Nothing, Whole};
        for exists in BOOLS {
            for foreign in BOOLS {
                for manifests in [Nothing, Broken, Alien, Whole, Newer] {
                    for segments in BOOLS {
                        let facts = DirectoryFacts { exists, foreign, manifests, segments };
                        let rows = DIRECTORY.iter().filter(|row| directory_fits(row, facts)).count();
                        assert_eq!(rows, 1, "{facts:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn exactly_one_row_decides_about_any_unlisted_segment() {
        use UnlistedHeader::{Copies, Damaged, Foreign, Newer, Ours, Survivors};
        for header in [Ours, Copies, Survivors, Foreign, Newer, Damaged] {
            for written in BOOLS {
                for both_copies in BOOLS {
                    for beyond in BOOLS {
                        let facts = UnlistedFacts { header, written, both_copies, beyond };
                        let rows = UNLISTED.iter().filter(|row| unlisted_fits(row, facts)).count();
                        assert_eq!(rows, 1, "{facts:?}");
                    }
                }
            }
        }
    }

    fn every_stop() -> impl Iterator<Item = StopFacts> {
        use Known::{CleanAt, CleanBefore, CutAt, CutBefore, Open, SealedAt, SealedBefore};
        let known = [SealedBefore, SealedAt, CutBefore, CutAt, CleanBefore, CleanAt, Open];
        known.into_iter().flat_map(|known| {
            [NextSegment::None, NextSegment::Continues, NextSegment::Elsewhere].into_iter().flat_map(
                move |next| {
                    [Behind::Nothing, Behind::Torn, Behind::Frames].into_iter().flat_map(move |behind| {
                        BOOLS.into_iter().map(move |durable_missing| StopFacts {
                            known,
                            next,
                            behind,
                            durable_missing,
                        })
                    })
                },
            )
        })
    }

    #[test]
    fn exactly_one_row_decides_about_any_stop() {
        for facts in every_stop() {
            let rows = STOP.iter().filter(|row| stop_fits(row, facts)).count();
            assert_eq!(rows, 1, "{facts:?}");
        }
    }

    #[test]
    fn a_missing_durable_record_is_never_cut_off() {
        for facts in every_stop().filter(|facts| facts.durable_missing) {
            assert!(matches!(stop(facts), StopAction::Damage | StopAction::Continue), "{facts:?}");
        }
    }

    #[test]
    fn a_log_that_stops_before_a_known_durable_end_is_damage() {
        for facts in every_stop() {
            if matches!(facts.known, Known::SealedBefore | Known::CleanBefore) {
                assert_eq!(stop(facts), StopAction::Damage, "{facts:?}");
            }
        }
    }
}
