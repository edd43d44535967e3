//! The synchronisation primitives of the modules that are model-checked: std's and parking_lot's, or loom's.
