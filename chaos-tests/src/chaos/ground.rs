//! What the storm stands on: a cluster in which faults can be put in force. The [`Bed`] is one; tests of the storm bring their own.

use anyhow::Result;
use rand::rngs::StdRng;
use steersman_client::Client;

use crate::bed::Bed;
use crate::nemesis::{self, Active, Class, Skipped};

/// A cluster in which faults can be put in force. Everything here means what it means in [`Bed`] and [`nemesis`].
#[allow(async_fn_in_trait)]
pub trait Ground {
    /// See [`nemesis::inject`].
    ///
    /// # Errors
    /// As there.
    async fn inject(&mut self, class: Class, rng: &mut StdRng) -> Result<Active, Skipped>;
    /// See [`nemesis::heal`].
    ///
    /// # Errors
    /// As there.
    async fn heal(&mut self, active: Active) -> Result<()>;
    /// See [`Bed::heal_all`].
    ///
    /// # Errors
    /// As there.
    async fn heal_all(&mut self) -> Result<()>;
    /// See [`Bed::crashed`].
    fn crashed(&mut self) -> Vec<String>;
    /// See [`Bed::masters`].
    fn masters(&self) -> Vec<u64>;
    /// See [`Bed::workers`].
    fn workers(&self) -> Vec<String>;
    /// See [`Bed::reachable`].
    fn reachable(&self, worker: &str) -> bool;
    /// See [`Bed::client`].
    fn client(&self) -> Client;
    /// See [`Bed::client_of`].
    fn client_of(&self, master: u64) -> Client;
}

impl Ground for Bed {
    async fn inject(&mut self, class: Class, rng: &mut StdRng) -> Result<Active, Skipped> {
        nemesis::inject(self, class, rng).await
    }

    async fn heal(&mut self, active: Active) -> Result<()> {
        nemesis::heal(self, active).await
    }

    async fn heal_all(&mut self) -> Result<()> {
        Bed::heal_all(self).await
    }

    fn crashed(&mut self) -> Vec<String> {
        Bed::crashed(self)
    }

    fn masters(&self) -> Vec<u64> {
        Bed::masters(self)
    }

    fn workers(&self) -> Vec<String> {
        Bed::workers(self)
    }

    fn reachable(&self, worker: &str) -> bool {
        Bed::reachable(self, worker)
    }

    fn client(&self) -> Client {
        Bed::client(self)
    }

    fn client_of(&self, master: u64) -> Client {
        Bed::client_of(self, master)
    }
}
