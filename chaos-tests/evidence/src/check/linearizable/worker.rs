//! The register of one worker: its mode, as it was set and as the registry shows it.
//!
//! What always holds: an offline worker's mode is hidden and not forgotten. A drain ends by itself when a new process registers
//! under the name, and every mode does when a new worker takes the name.

use super::search::Model;

/// What a worker is meant to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Take work.
    Active,
    /// Finish what it has.
    Drain,
    /// Stay out.
    Maintenance,
}

impl Mode {
    /// The word of a caller.
    pub fn asked(word: &str) -> Option<Self> {
        match word {
            "active" => Some(Self::Active),
            "drain" => Some(Self::Drain),
            "maintenance" => Some(Self::Maintenance),
            _ => None,
        }
    }

    /// The word of the registry; `None` if it hides the mode.
    pub fn shown(word: &str) -> Option<Self> {
        match word {
            "online" | "busy" => Some(Self::Active),
            "draining" => Some(Self::Drain),
            "maintenance" => Some(Self::Maintenance),
            _ => None,
        }
    }
}

/// How one worker may behave.
#[derive(Debug, Clone, Copy)]
pub struct Worker {
    /// Nobody but the recorded clients changes modes or shuts workers down.
    pub closed: bool,
    /// A new process may have registered, and forgotten a drain.
    pub drain_ends: bool,
    /// A new worker may have taken the name.
    pub all_ends: bool,
}

/// What is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ask {
    /// A new mode.
    Set(Mode),
    /// A read, and the mode that it showed.
    Read(Mode),
}

impl Model for Worker {
    /// `None` until somebody set it or saw it.
    type State = Option<Mode>;
    type Input = Ask;

    fn start(&self) -> Option<Mode> {
        None
    }

    fn step(&self, state: &Option<Mode>, input: &Ask) -> Option<Option<Mode>> {
        match (input, state) {
            (Ask::Set(mode), _) | (Ask::Read(mode), None) => Some(Some(*mode)),
            (Ask::Read(seen), Some(mode)) => {
                let by_itself = *seen == Mode::Active && (self.all_ends || (self.drain_ends && *mode == Mode::Drain));
                (seen == mode || by_itself || !self.closed).then_some(Some(*seen))
            }
        }
    }
}
