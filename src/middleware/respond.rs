use std::task::Poll;

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};

use super::{
    body::ResponseBody, body_length::BodyLength, call::Call, open_body::BodyEnd, place::Place,
    request_info::RequestInfo,
};
use crate::{
    deadline::BodyKind,
    scope::OpenScope,
    wire::{self, Protocol},
};

/// Builds the response of a request whose future is ready: headers, and the body that takes over the
/// open scope.
#[inline]
pub(super) fn respond<R: Send + 'static>(
    place: Option<Place>,
    mut response: Response<R>,
    length: BodyLength,
    info: RequestInfo,
) -> Response<ResponseBody<R>> {
    match place {
        Some(Place::Outermost(mut open)) => {
            let (length, end) = head(&mut open, &mut response, length, info);
            response.map(|body| ResponseBody::open(body, open, length, end))
        }
        Some(Place::Nested(call)) => {
            response.map(|body| ResponseBody::nested(body, Call::responded(call)))
        }
        None => response.map(|body| ResponseBody::nested(body, None)),
    }
}

/// As [`respond`], with what the inner future has returned. The response is not moved before.
#[inline(never)]
pub(super) fn respond_to<R: Send + 'static, E>(
    polled: Poll<Result<Response<R>, E>>,
    place: Option<Place>,
    length: BodyLength,
    info: RequestInfo,
) -> Poll<Result<Response<ResponseBody<R>>, E>> {
    match polled {
        Poll::Ready(Ok(response)) => Poll::Ready(Ok(respond(place, response, length, info))),
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => Poll::Pending,
    }
}

/// As [`respond`], with a response made by the middleware.
pub(super) fn respond_answer<R>(
    place: Option<Place>,
    mut answer: Response<Bytes>,
    info: RequestInfo,
) -> Response<ResponseBody<R>> {
    let length = BodyLength::of_bytes(answer.body());
    let Some(Place::Outermost(mut open)) = place else {
        return answer.map(|bytes| ResponseBody::answer(bytes, None, length));
    };
    let (length, _) = head(&mut open, &mut answer, length, info);
    answer.map(|bytes| ResponseBody::answer(bytes, Some(open), length))
}

/// Records the response head, and writes the headers. Returns the length of the body, and how it ends.
#[inline]
fn head<T>(
    open: &mut OpenScope,
    response: &mut Response<T>,
    length: BodyLength,
    info: RequestInfo,
) -> (BodyLength, BodyEnd) {
    let status = response.status();
    let tunnel = info.connect && status.is_success();
    // By the rules of HTTP these have no body. Servers drop one unread.
    let bodiless = (info.head && !bug!("head-takes-a-body"))
        || tunnel
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED;
    let length = if bodiless {
        BodyLength::NONE
    } else {
        length.or_exact(|| {
            let length = response.headers().get(header::CONTENT_LENGTH)?;
            length.to_str().ok()?.parse().ok()
        })
    };
    let protocol = info.protocol.of_response(response.headers());
    let kind = match (length.is_none(), protocol) {
        (true, _) => BodyKind::None,
        (false, Protocol::Plain) => BodyKind::Plain,
        // The deadline of a gRPC call covers its body.
        (false, Protocol::Grpc | Protocol::GrpcWeb | Protocol::GrpcWebText) => BodyKind::WholeCall,
    };
    open.head(
        status.as_u16(),
        kind,
        tunnel || status == StatusCode::SWITCHING_PROTOCOLS,
    );
    let mut end = BodyEnd {
        protocol,
        trailers: None,
    };
    if info.reports_load {
        report_load(open, response.headers_mut());
    }
    if let Some(exposed) = info.exposed {
        let headers = response.headers_mut();
        exposed.write(open, headers);
        if length.is_unknown() {
            end.trailers = exposed.announce(protocol, headers);
        }
    }
    (length, end)
}

/// Tells how tight memory is, if there is a limit.
#[cold]
pub(super) fn report_load(open: &OpenScope, headers: &mut HeaderMap) {
    if let Some(pressure) = open.scope().pressure() {
        wire::report_load(&pressure, headers);
    }
}
