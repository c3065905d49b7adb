//! What can be done to a host's software and clocks from outside: let it stand still, and change what its clocks say.
//!
//! What always holds: each life of a host is a [`Scope`] of its own; a life that begins while its host is frozen begins frozen; a
//! host's clocks go on over all its lives. What it does not do: stop what the HTTP/2 library has on its way; whoever freezes a host
//! holds its links too, so that this hears nothing and is not heard.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::clock::NodeClock;
use crate::scope::Scope;

struct Host {
    scope: Arc<Scope>,
    clock: Arc<NodeClock>,
    frozen: bool,
}

/// All hosts that ever ran, by name.
#[derive(Clone, Default)]
pub struct Hosts(Rc<RefCell<BTreeMap<String, Host>>>);

impl Hosts {
    /// A life begins on a host. `clock` makes its clocks if it is the first.
    pub fn begin(&self, name: &str, clock: impl FnOnce() -> NodeClock) -> (Arc<Scope>, Arc<NodeClock>) {
        let mut hosts = self.0.borrow_mut();
        let host = hosts.entry(name.to_owned()).or_insert_with(|| Host {
            scope: Scope::new(),
            clock: Arc::new(clock()),
            frozen: false,
        });
        host.scope = Scope::new();
        if host.frozen {
            host.scope.freeze();
        }
        (host.scope.clone(), host.clock.clone())
    }

    /// Nothing of it is polled from now on.
    pub fn freeze(&self, name: &str) {
        if let Some(host) = self.0.borrow_mut().get_mut(name) {
            host.frozen = true;
            host.scope.freeze();
        }
    }

    /// It goes on.
    pub fn thaw(&self, name: &str) {
        if let Some(host) = self.0.borrow_mut().get_mut(name) {
            host.frozen = false;
            host.scope.thaw();
        }
    }

    /// Its clocks, if it ever ran.
    pub fn clock(&self, name: &str) -> Option<Arc<NodeClock>> {
        self.0.borrow().get(name).map(|host| host.clock.clone())
    }
}
