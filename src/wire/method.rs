use http::Method;

use crate::route::KnownMethod;

/// The method, as far as it is counted by itself.
#[inline]
pub(crate) fn known_method(method: &Method) -> KnownMethod {
    match *method {
        Method::GET => KnownMethod::Get,
        Method::POST => KnownMethod::Post,
        Method::CONNECT => KnownMethod::Connect,
        Method::DELETE => KnownMethod::Delete,
        Method::HEAD => KnownMethod::Head,
        Method::OPTIONS => KnownMethod::Options,
        Method::PATCH => KnownMethod::Patch,
        Method::PUT => KnownMethod::Put,
        Method::TRACE => KnownMethod::Trace,
        _ => KnownMethod::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_but_unknown_ones_keeps_its_name() {
        for known in KnownMethod::ALL {
            let method: Method = known.as_str().parse().unwrap();
            assert_eq!(known_method(&method), known);
        }
        for unknown in ["BREW", "get", "PROPFIND"] {
            let method: Method = unknown.parse().unwrap();
            assert_eq!(known_method(&method), KnownMethod::Other, "{unknown}");
        }
    }
}
