//! The departures of the model store from the rule's text: some are harmless, the models must find
//! the rest.

/// A departure of the store from the text of the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Variant {
    /// None.
    Stated,

    // Allowed as well.
    /// `hidden` is taken down once, when the victims are chosen.
    HiddenAtTheChoice,
    /// `filtered` of an output is lower than it could be: the greatest number in it.
    FilteredIsTheGreatest,
    /// `filtered` of a log segment is its last number: a tombstone of its own is compacted with it.
    LogFilteredIsItsLast,
    /// `first` is the greatest number: a tombstone below it was in the index when this segment was
    /// made.
    FirstIsTheGreatest,
    /// `first` is 0.
    FirstIsNothing,
    /// There is no sync before naming. Instead only durable records let others be dropped, and F is
    /// durable.
    OnlyForDurable,
    /// Every segment with puts counts as hiding some. This is right, but does not end.
    EverythingHides,

    // Wrong.
    /// Tombstones are always dropped.
    NoTombstones,
    /// Tombstones are dropped if the index has no entry for the key, and copied if it has one.
    EntryTheOtherWay,
    /// F is the last number assigned when the last record has been looked at.
    NotedAfterTheLooks,
    /// F is the last number assigned when the output is named.
    NotedAtTheNaming,
    /// A segment with a live record blocks nothing.
    LiveNeverBlocks,
    /// Segments count only if they are older, by id, than the tombstone's.
    OlderOnly,
    /// The segments, and the puts they hide, are taken down with F, before the victims are chosen.
    OthersWithF,
    /// A copy that was superseded before it was named does not count as hidden.
    CopiesUncounted,
    /// The log is not synced at all.
    NoSync,
    /// The log is synced before the records are looked at.
    SyncBeforeTheLooks,
    /// As `OnlyForDurable`, but a tombstone is dropped for an entry that is not durable.
    EntryNotDurable,
    /// Victims are unnamed in a step of their own, before the outputs are named.
    UnnamedFirst,
    /// After a crash, numbers continue from the greatest that a record carries.
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
