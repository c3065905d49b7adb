//! One cached channel per master, connected on first use and dropped when it fails.
//!
//! What always holds: callers that want the same master at the same time share one connect; a channel that timed out is
//! never used again (a lost segment can wedge an HTTP/2 connection).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use steersman_world::{Connector, Net};
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::gather::Gather;

/// A silent connection is probed after this long, so that a frozen master is noticed within twice the time.
const KEEPALIVE: Duration = Duration::from_secs(2);

type Connecting = Shared<BoxFuture<'static, Result<Connection, Arc<str>>>>;

/// A connected channel, and the submits that are made over it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) channel: Channel,
    pub(crate) gather: Arc<Gather>,
}

pub(crate) struct Channels {
    net: Arc<dyn Net>,
    connect_timeout: Duration,
    open: Mutex<BTreeMap<String, Connecting>>,
}

impl Channels {
    pub(crate) fn new(net: Arc<dyn Net>, connect_timeout: Duration) -> Self {
        Self { net, connect_timeout, open: Mutex::new(BTreeMap::new()) }
    }

    /// The channel to `address`, connected. A failure is `UNAVAILABLE` and says why; nothing was sent then.
    pub(crate) async fn get(&self, address: &str) -> Result<Connection, Status> {
        let connecting = {
            let mut open = self.open.lock();
            open.entry(address.to_owned()).or_insert_with(|| self.connect(address)).clone()
        };
        connecting.clone().await.map_err(|why| {
            // Only the attempt that failed is forgotten, not one that began since.
            let mut open = self.open.lock();
            if open.get(address).is_some_and(|current| current.ptr_eq(&connecting)) {
                open.remove(address);
            }
            Status::unavailable(why.to_string())
        })
    }

    pub(crate) fn forget(&self, address: &str) {
        self.open.lock().remove(address);
    }

    fn connect(&self, address: &str) -> Connecting {
        let (net, timeout, address) = (self.net.clone(), self.connect_timeout, address.to_owned());
        async move {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))
                .and_then(|endpoint| endpoint.user_agent(concat!("steersman-client/", env!("CARGO_PKG_VERSION"))))
                .map_err(|error| why(&error))?
                .connect_timeout(timeout)
                .http2_keep_alive_interval(KEEPALIVE)
                .keep_alive_timeout(KEEPALIVE)
                .keep_alive_while_idle(true);
            match tokio::time::timeout(timeout, endpoint.connect_with_connector(Connector(net))).await {
                Ok(Ok(channel)) => Ok(Connection { channel, gather: Arc::default() }),
                Ok(Err(error)) => Err(why(&error)),
                Err(_) => Err(format!("no connection within {timeout:?}").into()),
            }
        }
        .boxed()
        .shared()
    }
}

/// The innermost cause: `Connection refused (os error 111)` says more than `transport error`.
fn why(error: &dyn std::error::Error) -> Arc<str> {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    crate::error::plain_cause(&cause.to_string()).into()
}
