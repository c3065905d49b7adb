//! Whom the workloads may ask: clients of each master alone, and clients that follow the leader.
//!
//! What always holds: the nemesis may change the members at any time; whoever asks next gets the new ones.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use steersman_client::Client;
use steersman_world::Entropy;

/// A call at one master: longer than an election, short against a fault.
pub const ONE_TRY: Duration = Duration::from_millis(1_500);
/// A call that follows the leader: the tries of a takeover on a busy machine fit.
pub const PATIENT: Duration = Duration::from_secs(4);

/// The members of the moment.
#[derive(Debug, Clone)]
pub struct Targets(Arc<Mutex<Members>>);

#[derive(Debug, Clone)]
struct Members {
    all: Client,
    each: Vec<(u64, Client)>,
}

impl Targets {
    /// With a client of all masters and one of each alone.
    pub fn new(all: Client, each: Vec<(u64, Client)>) -> Self {
        Self(Arc::new(Mutex::new(Members { all, each })))
    }

    /// Other members.
    pub fn set(&self, all: Client, each: Vec<(u64, Client)>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Members { all, each };
    }

    fn members(&self) -> Members {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A client of all masters.
    pub fn all(&self) -> Client {
        self.members().all.with_timeout(PATIENT)
    }

    /// Each master with a client of it alone.
    pub fn each(&self) -> Vec<(u64, Client)> {
        self.members().each.into_iter().map(|(id, client)| (id, client.with_timeout(ONE_TRY))).collect()
    }

    /// Some master, whatever it is at the moment.
    pub fn some(&self, entropy: &dyn Entropy) -> (u64, Client) {
        let members = self.members();
        let at = entropy.below(members.each.len() as u64) as usize;
        let (id, client) = members.each.get(at).cloned().unwrap_or((0, members.all));
        (id, client.with_timeout(ONE_TRY))
    }

    /// Half of the time some master, half of the time whoever leads (then nobody in particular is asked).
    pub fn mixed(&self, entropy: &dyn Entropy) -> (Option<u64>, Client) {
        if entropy.below(2) == 0 {
            return (None, self.all());
        }
        let (id, client) = self.some(entropy);
        (Some(id), client)
    }
}
