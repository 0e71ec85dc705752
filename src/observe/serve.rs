use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{handle::MemoryHandle, shutdown::ShutdownReport};
use crate::housekeeping::Timer;

/// Least time that a server has to end after the shutdown.
const LAST: Duration = Duration::from_secs(1);

impl MemoryHandle {
    /// Runs a server until `signal` is ready, and then [shuts down](Self::shutdown_and_cut_off) both within
    /// `grace`.
    ///
    /// `server` receives a future that is ready after the signal, to be passed to the server's own graceful
    /// shutdown, so that no new connections are accepted. Requests and tasks are cancelled and waited for
    /// while the server closes its connections. Streams that are left after `grace` are cut off. If the
    /// server has not ended a second after that, for example because of an idle connection, it is dropped.
    ///
    /// It works with any server that has a graceful shutdown, such as axum's and tonic's.
    ///
    /// # Errors
    ///
    /// Returns the error of the server. If it comes before the signal, there is no shutdown.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the server.
    ///
    /// # Examples
    ///
    #[cfg_attr(feature = "axum", doc = "```no_run")]
    #[cfg_attr(not(feature = "axum"), doc = "```text")]
    /// use std::time::Duration;
    ///
    /// use axum::Router;
    /// use tower_memory::MemoryLayer;
    ///
    /// # async fn serve() -> std::io::Result<()> {
    /// let memory = MemoryLayer::new();
    /// let handle = memory.handle();
    /// let app = Router::new().layer(memory);
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    ///
    /// let report = handle
    ///     .serve_until(tokio::signal::ctrl_c(), Duration::from_secs(10), |stop| {
    ///         axum::serve(listener, app).with_graceful_shutdown(stop)
    ///     })
    ///     .await?;
    /// println!("{report}");
    /// # Ok(())
    /// # }
    /// # let _ = serve;
    /// ```
    pub async fn serve_until<S, E>(
        &self,
        signal: impl Future,
        grace: Duration,
        server: impl FnOnce(WaitForCancellationFutureOwned) -> S,
    ) -> Result<ShutdownReport, E>
    where
        S: IntoFuture<Output = Result<(), E>>,
    {
        let stop = CancellationToken::new();
        let mut server = pin!(server(stop.clone().cancelled_owned()).into_future());
        let mut signal = pin!(signal);
        let mut ended = poll_fn(|cx| match server.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => signal.as_mut().poll(cx).map(|_| None),
        })
        .await
        .transpose()?;

        stop.cancel();
        let end = Instant::now().checked_add(grace.saturating_add(LAST));
        let mut shutdown = pin!(self.shutdown_and_cut_off(grace));
        let (mut report, mut timer) = (None, Timer::new());
        poll_fn(|cx| {
            if ended.is_none() {
                if let Poll::Ready(result) = server.as_mut().poll(cx) {
                    result?;
                    ended = Some(());
                }
            }
            if report.is_none() {
                if let Poll::Ready(made) = shutdown.as_mut().poll(cx) {
                    report = Some(made);
                }
            }
            let late = end.is_some_and(|end| timer.poll(end, cx));
            match report.take_if(|_| ended.is_some() || late) {
                Some(report) => Poll::Ready(Ok(report)),
                None => Poll::Pending,
            }
        })
        .await
    }
}
