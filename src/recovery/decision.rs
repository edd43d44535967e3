//! The decision tables of opening: one action for each combination of findings.
//!
//! The functions are pure, over small enums. Each table is a list of rows with wildcards. A test
//! enumerates every combination and proves that exactly one row matches it. `recovery` carries out
//! the actions.

/// The contents of a directory, before anything is touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DirectoryFacts {
    pub(crate) exists: bool,
    /// True if the directory holds a file that is not mapcask's.
    pub(crate) foreign: bool,
    pub(crate) manifests: Manifests,
    /// True if the directory holds a segment file.
    pub(crate) segments: bool,
}

/// The combined state of the two copies of the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manifests {
    /// No copy holds a byte that is not zero.
    Nothing,
    /// A copy is damaged or was never finished, and none is whole.
    Broken,
    /// A copy begins like the file of another program, and none is whole.
    Alien,
    /// At least one copy is whole.
    Whole,
    /// A copy requires a newer reader.
    Newer,
}

/// The action for a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DirectoryAction {
    /// Nothing was ever stored here: create a store.
    Create,
    /// Open the store.
    Open,
    /// Refuse: the files are another program's.
    RefuseForeign,
    /// Refuse: the format is newer.
    RefuseNewer,
    /// Refuse: there are segments, but no manifest describes them.
    RefuseLost,
}

/// Returns true if a table cell, a wildcard or a value, matches a fact.
fn fits<T: PartialEq>(row: Option<T>, fact: T) -> bool {
    row.is_none_or(|row| row == fact)
}

type DirectoryRow = (Option<bool>, Option<bool>, Option<Manifests>, Option<bool>, DirectoryAction);

/// The columns are: exists, foreign, manifests, segments, action.
const DIRECTORY: [DirectoryRow; 10] = {
    use DirectoryAction::{Create, Open, RefuseForeign, RefuseLost, RefuseNewer};
    use Manifests::{Alien, Broken, Newer, Nothing, Whole};
    const Y: Option<bool> = Some(true);
    const N: Option<bool> = Some(false);
    [
        (N, None, None, None, Create),
        // The manifest is durable before the first segment exists, so without segments nothing was
        // ever stored.
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

/// The facts about a segment file that the manifest does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UnlistedFacts {
    pub(crate) header: UnlistedHeader,
    /// True if bytes other than zero follow the header.
    pub(crate) written: bool,
    /// True if both copies of the manifest are whole, or one is whole and says that nothing was
    /// written since.
    pub(crate) both_copies: bool,
    /// True if the manifest has not assigned its number yet.
    pub(crate) beyond: bool,
}

/// The origin of an unlisted segment, according to its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnlistedHeader {
    Ours,
    /// Compaction wrote it, and the manifest names every segment that it was copied from.
    Copies,
    /// Compaction wrote it, and some of the segments that it was copied from are missing.
    OrphanedCopies,
    Foreign,
    Newer,
    Damaged,
}

/// The action for a segment file that the manifest does not name. No action loses a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnlistedAction {
    /// It was created but not yet named: use it.
    AdoptBlank,
    /// The damaged copy of the manifest may have named it: it is part of the log.
    AdoptWritten,
    /// It was once part of the store: quarantine it under another name.
    Quarantine,
    /// It repeats records of named segments: compaction was interrupted before the manifest named
    /// it.
    Remove,
    /// Refuse to open.
    RefuseForeign,
    /// Refuse to open.
    RefuseNewer,
    /// Refuse to open.
    RefuseDamaged,
}

type UnlistedRow = (Option<UnlistedHeader>, Option<bool>, Option<bool>, Option<bool>, UnlistedAction);

/// The columns are: header, written, both copies whole, beyond the numbers assigned, action.
const UNLISTED: [UnlistedRow; 10] = {
    use UnlistedAction::{
        AdoptBlank, AdoptWritten, Quarantine, RefuseDamaged, RefuseForeign, RefuseNewer, Remove,
    };
    use UnlistedHeader::{Copies, Damaged, Foreign, Newer, OrphanedCopies, Ours};
    const Y: Option<bool> = Some(true);
    const N: Option<bool> = Some(false);
    [
        (Some(Foreign), None, None, None, RefuseForeign),
        (Some(Newer), None, None, None, RefuseNewer),
        (Some(Damaged), None, None, None, RefuseDamaged),
        // Its victims are released only after both copies of the manifest name it.
        (Some(Copies), None, None, None, Remove),
        (Some(OrphanedCopies), None, None, N, Quarantine),
        (Some(OrphanedCopies), None, None, Y, RefuseDamaged),
        (Some(Ours), N, None, None, AdoptBlank),
        (Some(Ours), Y, None, N, Quarantine),
        (Some(Ours), Y, N, Y, AdoptWritten),
        // Records are only written to a segment that both copies name.
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

/// The place and the reason where reading a segment of the log stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StopFacts {
    pub(crate) known: Known,
    pub(crate) next: NextSegment,
    pub(crate) behind: Behind,
    /// True if a record beyond the stop is known to have been durable.
    pub(crate) durable_missing: bool,
}

/// The segment's end according to the manifest, compared with the stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    SealedBefore,
    SealedAt,
    CutBefore,
    CutAt,
    /// The last segment of a closed store, to which nothing has been written since.
    CleanBefore,
    CleanAt,
    /// The manifest does not know the end.
    Open,
}

/// The way the next written segment of the log continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NextSegment {
    /// There is no next segment.
    None,
    /// Its start record says that the log before it ends here.
    Continues,
    /// Its start record says something else, or is missing.
    Elsewhere,
}

/// The bytes in the segment behind the stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behind {
    /// Zeros.
    Nothing,
    /// Bytes that form no complete record: a torn write.
    Torn,
    /// Complete, valid records.
    Frames,
}

/// The consequence of a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopAction {
    /// Go on with the next segment.
    Continue,
    /// The log ends here, as its writer left it.
    End,
    /// The log is cut here: the bytes behind were never durable. Complete records among them are
    /// quarantined.
    Cut,
    /// Durable data is damaged: refuse.
    Damage,
}

type StopRow = (Option<Known>, Option<NextSegment>, Option<Behind>, Option<bool>, StopAction);

/// The columns are: known, next, behind, durable record missing, action.
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
        // After a clean close everything is durable, and nothing lies behind the end.
        (Some(CleanBefore), None, ANY, None, Damage),
        (Some(CleanAt), Some(Last), Some(Nothing), N, End),
        (Some(CleanAt), Some(Last), Some(Torn), N, Damage),
        (Some(CleanAt), Some(Last), Some(Frames), N, Damage),
        (Some(CleanAt), Some(Last), ANY, Y, Damage),
        (Some(CleanAt), Some(Continues), ANY, None, Damage),
        (Some(CleanAt), Some(Elsewhere), ANY, None, Damage),
        // A cut segment was read once. Records above its durable number may be gone by now.
        (Some(CutBefore), None, ANY, N, Cut),
        (Some(CutBefore), None, ANY, Y, Damage),
        (Some(CutAt), Some(Continues), ANY, None, Continue),
        (Some(CutAt), Some(Last), ANY, N, End),
        (Some(CutAt), Some(Last), ANY, Y, Damage),
        (Some(CutAt), Some(Elsewhere), ANY, N, Cut),
        (Some(CutAt), Some(Elsewhere), ANY, Y, Damage),
        // An open segment ends where its records end.
        (Some(Open), Some(Continues), ANY, None, Continue),
        (Some(Open), Some(Last), Some(Nothing), N, End),
        (Some(Open), Some(Last), Some(Torn), N, Cut),
        (Some(Open), Some(Last), Some(Frames), N, Cut),
        (Some(Open), Some(Elsewhere), ANY, N, Cut),
        (Some(Open), Some(Last), ANY, Y, Damage),
        (Some(Open), Some(Elsewhere), ANY, Y, Damage),
    ]
};

/// Decides the consequence of a stop.
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
        use UnlistedHeader::{Copies, Damaged, Foreign, Newer, OrphanedCopies, Ours};
        for header in [Ours, Copies, OrphanedCopies, Foreign, Newer, Damaged] {
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
