//! Connections of HTTP clients, bounded in number and in time: whoever reaches the port must not take
//! the file descriptors that the pipeline needs.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};

/// Most connections at a time. One more ends the oldest, so that who asks next is heard in any case.
pub(super) const MOST: usize = 64;
/// A connection to which nothing was written for so long ends: idle ones, and clients that are slow to ask.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// A listener whose connections are bounded.
#[derive(Debug)]
pub(super) struct Bounded {
    listener: TcpListener,
    /// Ends a connection when it is dropped, oldest first.
    open: VecDeque<oneshot::Sender<()>>,
}

impl Bounded {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self { listener, open: VecDeque::new() }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        self.open.retain(|open| !open.is_closed());
        while self.open.len() >= MOST {
            self.open.pop_front();
        }
        let (open, ended) = oneshot::channel();
        self.open.push_back(open);
        let patience = Box::pin(sleep(PATIENCE));
        (Connection { stream, patience, ended }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that ends by itself.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    patience: Pin<Box<Sleep>>,
    ended: oneshot::Receiver<()>,
}

impl Connection {
    /// Is its time over? Else it wakes whoever waits for it when it is.
    fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        let evicted = Pin::new(&mut self.ended).poll(context).is_ready();
        evicted || self.patience.as_mut().poll(context).is_ready()
    }
}

fn over() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the connection was idle, or others need its place")
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.is_over(context) {
            true => Poll::Ready(Err(over())),
            false => Pin::new(&mut self.stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_over(context) {
            return Poll::Ready(Err(over()));
        }
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if matches!(written, Poll::Ready(Ok(_))) {
            self.patience.as_mut().reset(Instant::now() + PATIENCE);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
