//! In what the store of the models may depart from the rule's text: some of it does no harm, the rest must be found out.

/// In what the store departs from the text of the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// In nothing.
    Stated,

    // Allowed as well.
    /// `hidden` is taken down once, when the victims are chosen.
    HiddenAtTheChoice,
    /// `filtered` of an output is lower than it could be: the greatest number in it.
    FilteredIsTheGreatest,
    /// `filtered` of a log segment is its last number: a tombstone of its own goes where it goes.
    LogFilteredIsItsLast,
    /// `first` is the greatest number: a tombstone below that was in the index when this segment was made.
    FirstIsTheGreatest,
    /// `first` is 0.
    FirstIsNothing,
    /// No sync before naming; instead nothing is left out for a record that is not durable, and F is durable.
    OnlyForDurable,
    /// Every segment with puts counts as hiding some. Right, but comes to no end.
    EverythingHides,

    // Wrong.
    /// Tombstones are always left out.
    NoTombstones,
    /// Tombstones are left out if the index has no entry for the key, and copied if it has one.
    EntryTheOtherWay,
    /// F is the last number given out when the last record has been looked at.
    NotedAfterTheLooks,
    /// F is the last number given out when the output is named.
    NotedAtTheNaming,
    /// A segment in which anything lives blocks nothing.
    LiveNeverBlocks,
    /// Segments count only if they are older, by id, than the tombstone's.
    OlderOnly,
    /// The segments, and what they hide, are taken down with F, before the victims are chosen.
    OthersWithF,
    /// A copy that was overtaken before it was named does not count as hidden.
    CopiesUncounted,
    /// The log is not synced at all.
    NoSync,
    /// The log is synced before the records are looked at.
    SyncBeforeTheLooks,
    /// As `OnlyForDurable`, but a tombstone is left out for an entry that is not durable.
    EntryNotDurable,
    /// Victims are unnamed in a step of their own, before the outputs are named.
    UnnamedFirst,
    /// After a crash numbers go on from the greatest that a record carries.
    NumbersFromRecords,
}

/// The departures that lose nothing.
pub(super) const ALLOWED: [Variant; 7] = [
    Variant::HiddenAtTheChoice,
    Variant::FilteredIsTheGreatest,
    Variant::LogFilteredIsItsLast,
    Variant::FirstIsTheGreatest,
    Variant::FirstIsNothing,
    Variant::OnlyForDurable,
    Variant::EverythingHides,
];

/// The departures that lose something.
pub(super) const WRONG: [Variant; 13] = [
    Variant::NoTombstones,
    Variant::EntryTheOtherWay,
    Variant::NotedAfterTheLooks,
    Variant::NotedAtTheNaming,
    Variant::LiveNeverBlocks,
    Variant::OlderOnly,
    Variant::OthersWithF,
    Variant::CopiesUncounted,
    Variant::NoSync,
    Variant::SyncBeforeTheLooks,
    Variant::EntryNotDurable,
    Variant::UnnamedFirst,
    Variant::NumbersFromRecords,
];
