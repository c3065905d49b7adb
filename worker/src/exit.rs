//! The exit codes of a worker process, in one table (named as in sysexits.h, so that an init system's operator knows them).
//!
//! What always holds: a code never changes its meaning. Codes of user commands (0 to 7) are another table.

/// One row: the number, its name and what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// What the process exits with.
    pub code: i32,
    /// Stable name.
    pub name: &'static str,
    /// What an operator should understand.
    pub meaning: &'static str,
}

macro_rules! exits {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $meaning:literal;)*) => {
        $($(#[$doc])* pub const $name: Exit = Exit { code: $code, name: stringify!($name), meaning: $meaning };)*
        /// All rows.
        pub const ALL: &[Exit] = &[$($name),*];
    };
}

exits! {
    /// EX_DATAERR.
    CORRUPT_DATA = 65, "a file in data_dir is damaged";
    /// EX_UNAVAILABLE.
    PORT_IN_USE = 69, "the HTTP listener could not be opened";
    /// EX_SOFTWARE.
    INTERNAL = 70, "a defect of the worker";
    /// EX_IOERR.
    DISK = 74, "data_dir cannot be read or written, or is full";
    /// EX_TEMPFAIL: foreign or locked data, a name that another worker has.
    FOREIGN_DATA = 75, "data_dir is locked by another worker, or belongs to another cluster or a newer process";
    /// EX_PROTOCOL.
    PROTOCOL = 76, "the masters speak another version";
    /// EX_NOPERM.
    PERMISSION = 77, "data_dir may not be used by this user";
    /// EX_CONFIG.
    CONFIG = 78, "the configuration is not valid";
}
