use http::{Response, StatusCode, header};

use super::{body::ResponseBody, open_body::BodyLength, place::Place, request_info::RequestInfo};
use crate::{
    deadline::BodyKind,
    wire::{self, Protocol},
};

/// Builds the response of a request whose future is ready: headers, and the body that takes over the
/// open scope.
pub(super) fn respond<T, R>(
    place: Option<Place>,
    response: Response<T>,
    length: BodyLength,
    info: RequestInfo,
    wrap: impl FnOnce(T, Option<Place>, BodyLength, Protocol) -> ResponseBody<R>,
) -> Response<ResponseBody<R>> {
    let (mut parts, body) = response.into_parts();
    let mut open = match place {
        Some(Place::Outermost(open)) => open,
        place => return Response::from_parts(parts, wrap(body, place, length, Protocol::Plain)),
    };
    let tunnel = info.connect && parts.status.is_success();
    // By the rules of HTTP these have no body. Servers drop one unread.
    let bodiless = info.head
        || tunnel
        || parts.status.is_informational()
        || parts.status == StatusCode::NO_CONTENT
        || parts.status == StatusCode::NOT_MODIFIED;
    let length = if bodiless {
        BodyLength::NONE
    } else {
        length.or_exact(|| {
            let length = parts.headers.get(header::CONTENT_LENGTH)?;
            length.to_str().ok()?.parse().ok()
        })
    };
    let protocol = info.protocol.of_response(&parts.headers);
    let kind = match (length.is_none(), protocol) {
        (true, _) => BodyKind::None,
        (false, Protocol::Plain) => BodyKind::Plain,
        // The deadline of a gRPC call covers its body.
        (false, Protocol::Grpc | Protocol::GrpcWeb | Protocol::GrpcWebText) => BodyKind::WholeCall,
    };
    open.head(
        parts.status.as_u16(),
        kind,
        tunnel || parts.status == StatusCode::SWITCHING_PROTOCOLS,
    );
    if info.exposed {
        wire::header::write(open.scope(), &mut parts.headers);
    }
    let place = Some(Place::Outermost(open));
    Response::from_parts(parts, wrap(body, place, length, protocol))
}
