use http::{HeaderMap, HeaderValue, Request, Version, header};

use crate::{
    scope::OpenScope,
    wire::{
        Protocol,
        header::{self as figures, HeaderFormat},
    },
};

/// What a client sees of the figures.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Exposed {
    pub(super) format: HeaderFormat,
    /// Whether mean and percentiles of the route are among the headers.
    pub(super) route_figures: bool,
    /// Whether the final figures follow a streamed body as trailers.
    pub(super) trailers: bool,
}

impl Exposed {
    /// The same for the client of this request, which may not be able to read trailers.
    pub(super) fn to<B>(self, request: &Request<B>) -> Self {
        Self {
            trailers: self.trailers && reads_trailers(request),
            ..self
        }
    }

    /// Writes the headers of a response.
    pub(super) fn write(self, open: &OpenScope, headers: &mut HeaderMap) {
        let route = if self.route_figures {
            open.scope().route_figures()
        } else {
            None
        };
        figures::write(open.scope(), headers, self.format, route);
    }

    /// Announces the trailers of a response with a body of unknown length. Returns how they are written.
    pub(super) fn announce(
        self,
        protocol: Protocol,
        headers: &mut HeaderMap,
    ) -> Option<HeaderFormat> {
        match protocol {
            _ if !self.trailers => return None,
            Protocol::Plain => {
                let names = HeaderValue::from_static(figures::trailer_names(self.format));
                headers.append(header::TRAILER, names);
            }
            // Its protocol says that there are trailers.
            Protocol::Grpc => {}
            // Its trailers are part of the body.
            Protocol::GrpcWeb | Protocol::GrpcWebText => return None,
        }
        Some(self.format)
    }
}

/// Whether the client of a request reads trailers, as far as that can be known: all of HTTP/2 and later can.
fn reads_trailers<B>(request: &Request<B>) -> bool {
    if request.version() >= Version::HTTP_2 {
        return true;
    }
    let codings = request.headers().get_all(header::TE).into_iter();
    request.version() == Version::HTTP_11
        && codings
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

#[cfg(all(test, not(tower_memory_loom)))]
mod tests {
    use super::*;

    #[test]
    fn trailers_are_for_clients_that_say_so_or_have_http_2() {
        let reads = |version, te: &[&str]| {
            let mut request = Request::builder().version(version);
            for value in te {
                request = request.header(header::TE, *value);
            }
            reads_trailers(&request.body(()).unwrap())
        };
        assert!(reads(Version::HTTP_2, &[]) && reads(Version::HTTP_3, &[]));
        assert!(!reads(Version::HTTP_11, &[]) && !reads(Version::HTTP_11, &["gzip"]));
        assert!(reads(Version::HTTP_11, &["trailers"]));
        assert!(reads(
            Version::HTTP_11,
            &["gzip;q=0.5", "deflate, Trailers"]
        ));
        assert!(!reads(Version::HTTP_10, &["trailers"]));
        assert!(!reads(
            Version::HTTP_11,
            &["trailers;q=\u{e9}", "xtrailers"]
        ));
    }
}
