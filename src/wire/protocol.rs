use http::{HeaderMap, HeaderValue, Method, header};

/// How the client wants to be told of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// By the status of the response.
    Plain,
    /// By `grpc-status`, in the head if there is no body yet and in the trailers otherwise.
    Grpc,
    /// By `grpc-status`, with trailers inside of the body ([gRPC-Web]).
    ///
    /// [gRPC-Web]: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md
    GrpcWeb,
    /// The same in base64.
    GrpcWebText,
}

impl Protocol {
    /// What the request's content type says. Each call of gRPC is a `POST`, so nothing else is
    /// looked at any further.
    pub(crate) fn of(method: &Method, headers: &HeaderMap) -> Self {
        if *method != Method::POST {
            return Self::Plain;
        }
        headers
            .get(header::CONTENT_TYPE)
            .map_or(Self::Plain, |value| Self::of_content_type(value.as_bytes()))
    }

    fn of_content_type(value: &[u8]) -> Self {
        // Longer names first: one is the beginning of the next.
        for (name, protocol) in [
            ("application/grpc-web-text", Self::GrpcWebText),
            ("application/grpc-web", Self::GrpcWeb),
            ("application/grpc", Self::Grpc),
        ] {
            let Some((start, rest)) = value.split_at_checked(name.len()) else {
                continue;
            };
            let ends = matches!(rest.first(), None | Some(b'+' | b';' | b' '));
            if ends && start.eq_ignore_ascii_case(name.as_bytes()) {
                return protocol;
            }
        }
        Self::Plain
    }

    /// The content type of an answer without any message; `None` if gRPC is not spoken.
    pub(crate) const fn content_type(self) -> Option<HeaderValue> {
        let text = match self {
            Self::Plain => return None,
            Self::Grpc => "application/grpc",
            Self::GrpcWeb => "application/grpc-web",
            Self::GrpcWebText => "application/grpc-web-text",
        };
        Some(HeaderValue::from_static(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types_of_grpc_are_told_from_others() {
        for (value, expected) in [
            ("application/grpc", Protocol::Grpc),
            ("application/grpc+proto", Protocol::Grpc),
            ("Application/GRPC;charset=utf-8", Protocol::Grpc),
            ("application/grpc-web", Protocol::GrpcWeb),
            ("application/grpc-web+proto", Protocol::GrpcWeb),
            ("application/grpc-web-text", Protocol::GrpcWebText),
            ("application/grpc-web-text+proto", Protocol::GrpcWebText),
            ("application/grpcs", Protocol::Plain),
            ("application/grpc-webs", Protocol::Plain),
            ("application/json", Protocol::Plain),
            ("", Protocol::Plain),
        ] {
            assert_eq!(
                Protocol::of_content_type(value.as_bytes()),
                expected,
                "{value}"
            );
        }
    }

    #[test]
    fn only_a_post_is_a_call_of_grpc() {
        let mut headers = HeaderMap::new();
        assert_eq!(Protocol::of(&Method::POST, &headers), Protocol::Plain);
        let value = HeaderValue::from_static("application/grpc");
        headers.insert(header::CONTENT_TYPE, value);
        assert_eq!(Protocol::of(&Method::POST, &headers), Protocol::Grpc);
        assert_eq!(Protocol::of(&Method::GET, &headers), Protocol::Plain);
    }
}
