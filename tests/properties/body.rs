//! Whatever a handler's body does, the layer's body yields the same, and the request ends as the documentation of
//! `ResponseBody` says.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body::{Body, Frame, SizeHint};
use tower::{Layer, Service, service_fn};
use tower_memory::{MemoryLayer, Outcome, RequestScope};

use super::input::Input;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Data(usize),
    Trailers,
    Pending,
    Error,
}

/// A body that does what was written down for it.
#[derive(Debug, Clone)]
struct Script {
    steps: VecDeque<Step>,
    tells_length: bool,
    tells_end: bool,
}

impl Script {
    fn length(&self) -> u64 {
        let data = self.steps.iter().map(|step| match step {
            Step::Data(bytes) => *bytes as u64,
            _ => 0,
        });
        data.sum()
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = String;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, String>>> {
        match self.steps.pop_front() {
            None => Poll::Ready(None),
            Some(Step::Data(bytes)) => {
                let left = self.steps.len() as u8;
                Poll::Ready(Some(Ok(Frame::data(vec![left; bytes].into()))))
            }
            Some(Step::Trailers) => Poll::Ready(Some(Ok(Frame::trailers(HeaderMap::new())))),
            Some(Step::Error) => {
                self.steps.clear();
                Poll::Ready(Some(Err("written down".to_owned())))
            }
            Some(Step::Pending) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.tells_end && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        if self.tells_length {
            SizeHint::with_exact(self.length())
        } else {
            SizeHint::new()
        }
    }
}

/// How the request ends, as far as it is known.
struct Model {
    left: Option<u64>,
    end: Option<Outcome>,
}

impl Model {
    fn step(&mut self, polled: &Poll<Option<Result<Frame<Bytes>, String>>>, body: &Script) {
        self.end = match polled {
            Poll::Pending => None,
            Poll::Ready(None) => Some(Outcome::Completed),
            Poll::Ready(Some(Err(_))) => Some(Outcome::ServiceError),
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(left), Some(data)) = (&mut self.left, frame.data_ref()) {
                    *left = left.saturating_sub(data.len() as u64);
                }
                (frame.is_trailers() || body.is_end_stream()).then_some(Outcome::Completed)
            }
        };
    }

    fn dropped(self) -> Outcome {
        self.end.unwrap_or(match self.left {
            Some(0) => Outcome::Completed,
            _ => Outcome::Abandoned,
        })
    }
}

/// Panics if something does not hold.
pub(crate) fn holds(data: &[u8]) {
    let mut input = Input(data);
    let method = [Method::GET, Method::HEAD][input.below(2)].clone();
    let status = [200, 204, 304, 404, 500][input.below(5)];
    let (tells_length, tells_end) = (input.flag(), input.flag());
    let announced = [None, Some(0), Some(17), Some(u64::MAX)][input.below(4)];
    let polls = input.below(20);
    let mut script = Script {
        steps: VecDeque::new(),
        tells_length,
        tells_end,
    };
    while !input.is_empty() && script.steps.len() < 16 {
        script.steps.push_back(match input.below(7) {
            0..4 => Step::Data(input.below(40)),
            4 => Step::Trailers,
            5 => Step::Pending,
            _ => Step::Error,
        });
    }

    let layer = MemoryLayer::new();
    let inner = script.clone();
    let mut service = layer.layer(service_fn(move |request: Request<()>| {
        let scope = request.extensions().get::<RequestScope>().expect("inside");
        scope.arena().alloc_str("in the arena");
        let mut response = Response::builder().status(status);
        if let Some(bytes) = announced {
            response = response.header("content-length", bytes);
        }
        std::future::ready(Ok::<_, Infallible>(
            response.body(inner.clone()).expect("valid"),
        ))
    }));
    let request = Request::builder()
        .method(method.clone())
        .body(())
        .expect("valid");
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(response)) = pin!(service.call(request)).poll(&mut cx) else {
        panic!("the handler is ready");
    };

    let bodiless = method == Method::HEAD || status == 204 || status == 304;
    let known = if script.is_end_stream() {
        Some(0)
    } else {
        script.size_hint().exact().or(announced)
    };
    let mut model = Model {
        left: if bodiless { Some(0) } else { known },
        end: None,
    };
    let mut body = Box::pin(response.into_body());
    for _ in 0..polls {
        if model.end.is_some() {
            assert!(body.is_end_stream() && body.size_hint().exact() == Some(0));
            assert!(matches!(
                body.as_mut().poll_frame(&mut cx),
                Poll::Ready(None)
            ));
            continue;
        }
        assert_eq!(body.is_end_stream(), script.is_end_stream());
        assert_eq!(body.size_hint().exact(), script.size_hint().exact());
        let expected = Pin::new(&mut script).poll_frame(&mut cx);
        model.step(&expected, &script);
        let polled = body.as_mut().poll_frame(&mut cx);
        let text = |polled: Poll<Option<Result<Frame<Bytes>, String>>>| format!("{polled:?}");
        let polled =
            polled.map(|frame| frame.map(|frame| frame.map_err(|error| error.to_string())));
        assert_eq!(text(polled), text(expected));
    }
    let expected = model.dropped();
    drop(body);
    let snapshot = layer.handle().snapshot();
    assert_eq!((snapshot.in_flight, snapshot.pool.rented), (0, 0));
    let outcomes = snapshot.routes[0].outcomes;
    assert_eq!(
        (outcomes.get(expected), outcomes.total()),
        (1, 1),
        "{expected:?} {script:?}"
    );
}
