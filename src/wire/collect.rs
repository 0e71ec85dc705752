use std::{
    convert::Infallible,
    error::Error,
    fmt,
    future::poll_fn,
    mem,
    pin::{Pin, pin},
};

#[cfg(all(feature = "axum", feature = "json"))]
use bytes::Bytes;
use bytes::{Buf, BufMut};
use http::StatusCode;
use http_body::{Body, Frame};

use crate::arena::{Arena, ArenaBuf, ArenaError, ArenaErrorKind};

/// Bytes of an announced length that are reserved before any has come, at most.
const MAX_IN_ADVANCE: u64 = 64 * 1024;

/// The whole announced length is reserved once one part in this many has come, so announcing a large
/// body costs the server at most this many times what was really sent, or [`MAX_IN_ADVANCE`].
const BELIEVED_AFTER: u64 = 8;

impl Arena {
    /// Reads `body` into a buffer of this arena, up to `limit` bytes.
    ///
    /// A body that announces more than `limit` bytes is refused without reading it. The announced length
    /// is reserved once an eighth of it has come; before that, at most 64 KiB are. Trailers are
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
        let body = pin!(body);
        Collector::new(self, body.size_hint().lower(), limit)?
            .read_to_end(body)
            .await
    }
}

/// The data of a body's next frame that has some.
async fn next_data<B: Body>(mut body: Pin<&mut B>) -> Option<Result<B::Data, B::Error>> {
    loop {
        let frame = poll_fn(|cx| body.as_mut().poll_frame(cx)).await?;
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) if data.has_remaining() => return Some(Ok(data)),
            Ok(_) => {}
            Err(error) => return Some(Err(error)),
        }
    }
}

/// What has come of a body, in a buffer that takes memory as far as the announced length is believed.
struct Collector {
    read: ArenaBuf,
    announced: u64,
    limit: usize,
}

impl Collector {
    fn new<E>(arena: &Arena, announced: u64, limit: usize) -> Result<Self, CollectError<E>> {
        let mut read = arena.buf();
        let in_advance = announced.min(MAX_IN_ADVANCE) as usize;
        fits(announced, limit)
            .and_then(|()| read.try_reserve(in_advance).map_err(Cause::Arena))
            .map_err(|cause| CollectError::new(cause, 0))?;
        Ok(Self {
            read,
            announced,
            limit,
        })
    }

    fn push<E>(&mut self, mut data: impl Buf) -> Result<(), CollectError<E>> {
        let received = self.read.len();
        let after = received.saturating_add(data.remaining()) as u64;
        let mut needed = data.remaining();
        if after >= self.announced / BELIEVED_AFTER {
            // `fits` has checked that it is a `usize`.
            let announced = mem::take(&mut self.announced) as usize;
            needed = needed.max(announced.saturating_sub(received));
        }
        fits(after, self.limit)
            .and_then(|()| self.read.try_reserve(needed).map_err(Cause::Arena))
            .map_err(|cause| CollectError::new(cause, received))?;
        self.read.put(&mut data);
        Ok(())
    }

    async fn read_to_end<B: Body>(
        mut self,
        mut body: Pin<&mut B>,
    ) -> Result<ArenaBuf, CollectError<B::Error>> {
        while let Some(data) = next_data(body.as_mut()).await {
            let received = self.read.len();
            self.push(data.map_err(|error| CollectError::new(Cause::Body(error), received))?)?;
        }
        Ok(self.read)
    }
}

/// A whole body: as it came if that was in one frame, and in the arena otherwise.
#[cfg(all(feature = "axum", feature = "json"))]
#[derive(Debug)]
pub(crate) enum Whole {
    Frame(Bytes),
    Buffer(ArenaBuf),
}

#[cfg(all(feature = "axum", feature = "json"))]
impl Whole {
    /// Reads a body that limits its length by itself.
    pub(crate) async fn read<B>(arena: &Arena, body: B) -> Result<Self, CollectError<B::Error>>
    where
        B: Body<Data = Bytes>,
    {
        let mut body = pin!(body);
        let announced = body.size_hint().lower();
        let failed = |received| move |error| CollectError::new(Cause::Body(error), received);
        let Some(first) = next_data(body.as_mut()).await else {
            return Ok(Self::Frame(Bytes::new()));
        };
        let first = first.map_err(failed(0))?;
        let Some(second) = next_data(body.as_mut()).await else {
            return Ok(Self::Frame(first));
        };
        let second = second.map_err(failed(first.len()))?;
        let mut collector = Collector::new(arena, announced, usize::MAX)?;
        collector.push(first)?;
        collector.push(second)?;
        Ok(Self::Buffer(collector.read_to_end(body).await?))
    }
}

impl ArenaBuf {
    /// Appends a chunk, unless the buffer becomes longer than `limit`.
    ///
    /// For what comes in chunks and is no body, such as a field of axum's `Multipart`. Bodies are read by
    /// [`Arena::collect`].
    ///
    /// # Errors
    ///
    /// Returns an error if the buffer would become longer than `limit`, or if the arena cannot grow. The
    /// buffer is unchanged. The error is that of [`Arena::collect`], and as such a response.
    ///
    /// # Examples
    ///
    /// ```
    /// use tower_memory::Arena;
    ///
    /// let mut read = Arena::new().buf();
    /// // while let Some(chunk) = field.chunk().await? {
    /// for chunk in ["hel", "lo"] {
    ///     read.append(chunk.as_bytes(), 5)?;
    /// }
    /// assert_eq!(&*read, b"hello");
    ///
    /// let error = read.append(&b"!"[..], 5).unwrap_err();
    /// assert_eq!((error.status().as_u16(), error.limit(), error.received()), (413, Some(5), 5));
    /// # Ok::<(), tower_memory::CollectError<std::convert::Infallible>>(())
    /// ```
    pub fn append(
        &mut self,
        mut chunk: impl Buf,
        limit: usize,
    ) -> Result<(), CollectError<Infallible>> {
        fits(self.len().saturating_add(chunk.remaining()) as u64, limit)
            .and_then(|()| self.try_reserve(chunk.remaining()).map_err(Cause::Arena))
            .map_err(|cause| CollectError::new(cause, self.len()))?;
        self.put(&mut chunk);
        Ok(())
    }
}

/// Checks a length that is asked for.
const fn fits<E>(asked: u64, limit: usize) -> Result<(), Cause<E>> {
    if asked > limit as u64 {
        return Err(Cause::TooLarge { limit, asked });
    }
    Ok(())
}

/// The error of [`Arena::collect`] and [`ArenaBuf::append`].
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

    /// Returns the limit in bytes, if the body exceeded it: `limit`, or what the request may hold.
    #[must_use]
    pub const fn limit(&self) -> Option<usize> {
        match &self.cause {
            Cause::TooLarge { limit, .. } => Some(*limit),
            Cause::Arena(error) => error.limit(),
            Cause::Body(_) => None,
        }
    }

    /// Returns the bytes that were asked for: the length of the body as far as it is known, if it exceeded `limit`,
    /// or what the arena was asked for, if it could not grow.
    #[must_use]
    pub const fn asked(&self) -> Option<u64> {
        match &self.cause {
            Cause::TooLarge { asked, .. } => Some(*asked),
            Cause::Arena(error) => Some(error.asked() as u64),
            Cause::Body(_) => None,
        }
    }

    /// Returns the bytes in use, if the arena could not grow: what the request held if it exceeded what it may hold,
    /// and otherwise what the arena had in use.
    #[must_use]
    pub const fn used(&self) -> Option<usize> {
        match &self.cause {
            Cause::Arena(error) => Some(error.used()),
            _ => None,
        }
    }

    /// Whether the request would have held more than it may.
    pub(crate) const fn is_over_request_limit(&self) -> bool {
        matches!(&self.cause, Cause::Arena(error) if matches!(error.kind(), ArenaErrorKind::LimitExceeded))
    }

    /// Returns the status to respond with: `413` if the body is too large, for `limit` or for what the request
    /// may hold, `400` if it failed, and `500` if the arena could not grow.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match &self.cause {
            Cause::Arena(_) if self.is_over_request_limit() => StatusCode::PAYLOAD_TOO_LARGE,
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
            Cause::Arena(_) if self.is_over_request_limit() => write!(
                f,
                "body exceeds the memory limit of its request after {} bytes",
                self.received
            ),
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
