use http::{HeaderMap, HeaderValue, Method, header};

/// How a failure is reported to the client.
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
    /// Detects the protocol from the content type. Every gRPC call is a `POST`, so other methods are
    /// not inspected further.
    #[inline]
    pub(crate) fn of(method: &Method, headers: &HeaderMap) -> Self {
        if !matches!(*method, Method::POST) {
            return Self::Plain;
        }
        headers
            .get(header::CONTENT_TYPE)
            .map_or(Self::Plain, |value| Self::of_content_type(value.as_bytes()))
    }

    /// Detects the encoding of a response to a call of this protocol. In gRPC-Web the client chooses it
    /// by `accept`, so only the response tells.
    #[inline]
    pub(crate) fn of_response(self, headers: &HeaderMap) -> Self {
        if self == Self::Plain {
            return self;
        }
        self.of_encoding(headers)
    }

    #[inline(never)]
    fn of_encoding(self, headers: &HeaderMap) -> Self {
        let value = headers.get(header::CONTENT_TYPE);
        let found = value.map_or(Self::Plain, |value| Self::of_content_type(value.as_bytes()));
        if found == Self::Plain { self } else { found }
    }

    fn of_content_type(value: &[u8]) -> Self {
        // Longer names first, since each is a prefix of the one before it.
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

    /// Returns the content type of a gRPC response without a message, or `None` for plain HTTP.
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
