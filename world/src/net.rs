//! Listeners and connectors as a parameter: TCP on a real machine, something else in a simulation.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt as _};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A byte stream in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// An accepted or opened connection. Implements what a tonic server needs of it.
pub struct BoxIo {
    io: Box<dyn Io>,
    /// The other end, where known.
    pub peer: Option<SocketAddr>,
}

impl BoxIo {
    /// Wraps any byte stream.
    pub fn new(io: impl Io, peer: Option<SocketAddr>) -> Self {
        Self { io: Box::new(io), peer }
    }
}

impl AsyncRead for BoxIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for BoxIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

impl tonic::transport::server::Connected for BoxIo {
    type ConnectInfo = Option<SocketAddr>;
    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer
    }
}

/// Accepted connections. An `Err` item is one failed accept, not the end of the listener.
pub struct Incoming {
    /// Where it really listens (a port of 0 was replaced by the kernel's choice).
    pub local: SocketAddr,
    /// The connections.
    pub stream: BoxStream<'static, io::Result<BoxIo>>,
}

/// Opens listeners and connections. Addresses are `host:port`.
pub trait Net: Send + Sync + 'static {
    /// Listens at `addr`.
    fn bind(&self, addr: String) -> BoxFuture<'static, io::Result<Incoming>>;
    /// Connects to `addr`.
    fn connect(&self, addr: String) -> BoxFuture<'static, io::Result<BoxIo>>;
}

/// Real TCP with `TCP_NODELAY`.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpNet;

impl Net for TcpNet {
    fn bind(&self, addr: String) -> BoxFuture<'static, io::Result<Incoming>> {
        Box::pin(async move {
            let listener = tokio::net::TcpListener::bind(&addr).await?;
            let local = listener.local_addr()?;
            let stream = futures::stream::unfold(listener, |listener| async move {
                let accepted = listener.accept().await.and_then(|(io, peer)| {
                    io.set_nodelay(true)?;
                    Ok(BoxIo::new(io, Some(peer)))
                });
                Some((accepted, listener))
            });
            Ok(Incoming { local, stream: stream.boxed() })
        })
    }

    fn connect(&self, addr: String) -> BoxFuture<'static, io::Result<BoxIo>> {
        Box::pin(async move {
            let io = tokio::net::TcpStream::connect(&addr).await?;
            io.set_nodelay(true)?;
            let peer = io.peer_addr().ok();
            Ok(BoxIo::new(io, peer))
        })
    }
}

/// A [`Net`] in the shape that `tonic::transport::Endpoint::connect_with_connector` takes. The host and port are taken
/// from the URI that it is called with.
#[derive(Clone)]
pub struct Connector(pub std::sync::Arc<dyn Net>);

impl tower::Service<http::Uri> for Connector {
    type Response = TokioIo<BoxIo>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<BoxIo>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let authority = uri.authority().map(|a| a.to_string());
        let net = self.0.clone();
        Box::pin(async move {
            let addr =
                authority.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "address without a host"))?;
            net.connect(addr).await.map(TokioIo::new)
        })
    }
}
