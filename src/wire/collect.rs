use std::{error::Error, fmt, future::poll_fn, pin::pin};

use bytes::{Buf, BufMut};
use http::StatusCode;
use http_body::Body;

use crate::arena::{Arena, ArenaBuf, ArenaError};

/// Maximum bytes reserved for an announced length. The buffer grows further as bytes arrive, so that
/// announcing a large body costs the server nothing.
const MAX_IN_ADVANCE: u64 = 64 * 1024;

impl Arena {
    /// Reads `body` into a buffer of this arena, up to `limit` bytes.
    ///
    /// A body that announces more than `limit` bytes is refused without reading it. Trailers are
    /// discarded.
    ///
    /// # Errors
    ///
    /// Returns an error if the body is larger than `limit`, if it fails, or if the arena cannot grow.
    /// The bytes read so far are dropped. [`CollectError::status`] is the status to respond with,
    /// such as `413` for a body that is too large. With the `axum` feature the error is a response.
    ///
    /// # Cancel safety
    ///
    /// This method is not cancel safe: dropping the future drops the body and the bytes read so far.
    ///
    /// # Examples
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http_body_util::Full;
    /// use tower_memory::Arena;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let arena = Arena::new();
    /// let body = Full::new(Bytes::from_static(b"hello"));
    /// let read = arena.collect(body.clone(), 1024).await?;
    /// assert_eq!(&*read, b"hello");
    ///
    /// let error = arena.collect(body, 4).await.unwrap_err();
    /// assert_eq!(error.status(), 413);
    /// assert_eq!(error.to_string(), "body of at least 5 bytes exceeds the limit of 4");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn collect<B: Body>(
        &self,
        body: B,
        limit: usize,
    ) -> Result<ArenaBuf, CollectError<B::Error>> {
        let mut body = pin!(body);
        let mut read = self.buf();
        let fits = |asked: u64, received: usize| {
            let cause = Cause::TooLarge { limit, asked };
            if asked > limit as u64 {
                return Err(CollectError::new(cause, received));
            }
            Ok(())
        };
        let announced = body.size_hint().lower();
        fits(announced, 0)?;
        read.try_reserve(announced.min(MAX_IN_ADVANCE) as usize)
            .map_err(|error| CollectError::new(Cause::Arena(error), 0))?;
        while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            let received = read.len();
            let frame = frame.map_err(|error| CollectError::new(Cause::Body(error), received))?;
            let Ok(mut data) = frame.into_data() else {
                continue;
            };
            fits(received.saturating_add(data.remaining()) as u64, received)?;
            read.try_reserve(data.remaining())
                .map_err(|error| CollectError::new(Cause::Arena(error), received))?;
            read.put(&mut data);
        }
        Ok(read)
    }
}

/// The error of [`Arena::collect`].
///
/// # Examples
///
/// ```
/// use http_body_util::Full;
/// use tower_memory::Arena;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let body = Full::new(bytes::Bytes::from_static(b"hello"));
/// let error = Arena::new().collect(body, 4).await.unwrap_err();
/// assert_eq!((error.status().as_u16(), error.limit(), error.received()), (413, Some(4), 0));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct CollectError<E> {
    cause: Cause<E>,
    received: usize,
}

#[derive(Debug)]
enum Cause<E> {
    Arena(ArenaError),
    Body(E),
    TooLarge { limit: usize, asked: u64 },
}

impl<E> CollectError<E> {
    const fn new(cause: Cause<E>, received: usize) -> Self {
        Self { cause, received }
    }

    /// Returns how many bytes had been read before the error.
    #[must_use]
    pub const fn received(&self) -> usize {
        self.received
    }

    /// Returns the limit in bytes, if the body exceeded it.
    #[must_use]
    pub const fn limit(&self) -> Option<usize> {
        match self.cause {
            Cause::TooLarge { limit, .. } => Some(limit),
            _ => None,
        }
    }

    /// Returns the status to respond with: `413` if the body is too large, `400` if it failed, and
    /// `500` if the arena could not grow.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self.cause {
            Cause::Arena(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Cause::Body(_) => StatusCode::BAD_REQUEST,
            Cause::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    /// Returns the error of the body, if it failed.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io;
    ///
    /// use bytes::Bytes;
    /// use http_body::Frame;
    /// use http_body_util::StreamBody;
    /// use tower_memory::Arena;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let frames = [Ok(Frame::data(Bytes::from("he"))), Err(io::Error::other("connection reset"))];
    /// let body = StreamBody::new(futures_util::stream::iter(frames));
    /// let error = Arena::new().collect(body, 5).await.unwrap_err();
    /// assert_eq!((error.status().as_u16(), error.received()), (400, 2));
    /// assert_eq!(error.into_body_error().expect("the body's error").to_string(), "connection reset");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn into_body_error(self) -> Option<E> {
        match self.cause {
            Cause::Body(error) => Some(error),
            _ => None,
        }
    }
}

impl<E> fmt::Display for CollectError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Arena(_) => write!(f, "no memory for the body after {} bytes", self.received),
            Cause::Body(_) => write!(f, "body failed after {} bytes", self.received),
            Cause::TooLarge { limit, asked } => write!(
                f,
                "body of at least {asked} bytes exceeds the limit of {limit}"
            ),
        }
    }
}

impl<E: Error + 'static> Error for CollectError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.cause {
            Cause::Arena(error) => Some(error),
            Cause::Body(error) => Some(error),
            Cause::TooLarge { .. } => None,
        }
    }
}
