use std::{fmt, net::SocketAddr, sync::Arc};

use axum::extract::ConnectInfo;
use http::{
    HeaderMap,
    header::{FORWARDED, HOST, HeaderName, VIA},
    request::Parts,
    uri::Authority,
};

type Rule = dyn Fn(&Parts) -> bool + Send + Sync;

/// Who may see the pages.
#[derive(Clone, Default)]
pub(super) struct Access {
    rules: Vec<Arc<Rule>>,
    loopback: bool,
    hosts: Vec<String>,
}

/// Why a request was answered with `403`. Shows nothing of what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    NoRule,
    Rule,
    NoConnectInfo,
    NotLoopback,
    Forwarded,
    Host,
    CrossSite,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoRule => {
                "the debug pages refuse all requests until an access rule is set: see DebugPages::allow"
            }
            Self::Rule => "the access rule of the debug pages refuses this request",
            Self::NoConnectInfo => {
                "the debug pages are for loopback only, and the server does not tell the peer's \
                 address: serve the router with into_make_service_with_connect_info::<SocketAddr>()"
            }
            Self::NotLoopback => "the debug pages are for loopback only",
            Self::Forwarded => {
                "the debug pages are for loopback only, and a proxy has forwarded this request"
            }
            Self::Host => {
                "the debug pages are not served under this host: see DebugPages::allow_host"
            }
            Self::CrossSite => "the debug pages are not served to other sites",
        })
    }
}

/// What proxies add. One on the same machine would make every client a loopback client.
const FORWARDERS: [HeaderName; 6] = [
    FORWARDED,
    VIA,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

impl Access {
    pub(super) fn allow(&mut self, rule: impl Fn(&Parts) -> bool + Send + Sync + 'static) {
        self.rules.push(Arc::new(rule));
    }

    pub(super) fn allow_loopback(&mut self) {
        self.loopback = true;
    }

    pub(super) fn allow_host(&mut self, name: String) {
        self.hosts.push(name);
    }

    /// Whether the request may be answered. The rules of the user are asked last.
    pub(super) fn check(&self, parts: &Parts) -> Result<(), Refusal> {
        if !self.is_own_host(parts) {
            return Err(Refusal::Host);
        }
        if !is_same_origin(&parts.headers) {
            return Err(Refusal::CrossSite);
        }
        let refusal = match (self.loopback, self.rules.is_empty()) {
            (false, true) => return Err(Refusal::NoRule),
            (false, false) => Refusal::Rule,
            (true, _) => match from_loopback(parts) {
                Ok(()) => return Ok(()),
                Err(refusal) => refusal,
            },
        };
        if self.rules.iter().any(|rule| rule(parts)) {
            return Ok(());
        }
        Err(refusal)
    }

    /// Whether each host that the request names is an address, `localhost`, or allowed. A page of another site
    /// whose name was rebound to this server sends that name.
    fn is_own_host(&self, parts: &Parts) -> bool {
        let mut named = false;
        if let Some(authority) = parts.uri.authority() {
            named = true;
            if !self.allows(authority) {
                return false;
            }
        }
        for value in parts.headers.get_all(HOST) {
            let authority = value.to_str().ok().and_then(|text| text.parse().ok());
            if !authority.is_some_and(|authority| self.allows(&authority)) {
                return false;
            }
            named = true;
        }
        named
    }

    fn allows(&self, authority: &Authority) -> bool {
        // `user@host` is no form of `Host`.
        if authority.as_str().contains('@') {
            return false;
        }
        let host = authority.host();
        let address = host.trim_start_matches('[').trim_end_matches(']');
        address.parse::<std::net::IpAddr>().is_ok()
            || host.eq_ignore_ascii_case("localhost")
            || self
                .hosts
                .iter()
                .any(|name| host.eq_ignore_ascii_case(name))
    }
}

/// Whether the browser says that the request is not another site's. Other clients say nothing.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let sites = headers.get_all("sec-fetch-site");
    sites
        .iter()
        .all(|site| site == "same-origin" || site == "none")
}

fn from_loopback(parts: &Parts) -> Result<(), Refusal> {
    let Some(ConnectInfo(peer)) = parts.extensions.get::<ConnectInfo<SocketAddr>>() else {
        return Err(Refusal::NoConnectInfo);
    };
    if !peer.ip().to_canonical().is_loopback() {
        return Err(Refusal::NotLoopback);
    }
    if FORWARDERS
        .iter()
        .any(|name| parts.headers.contains_key(name))
    {
        return Err(Refusal::Forwarded);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn request(headers: &[(&str, &str)], peer: Option<&str>) -> Parts {
        let mut request = Request::get("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut parts, ()) = request.body(()).expect("valid").into_parts();
        if let Some(peer) = peer {
            let peer: SocketAddr = peer.parse().expect("an address");
            parts.extensions.insert(ConnectInfo(peer));
        }
        parts
    }

    fn loopback() -> Access {
        let mut access = Access::default();
        access.allow_loopback();
        access
    }

    const LOCAL: Option<&str> = Some("127.0.0.1:5000");
    const HERE: (&str, &str) = ("host", "localhost:3000");

    #[test]
    fn everybody_is_refused_without_a_rule() {
        let access = Access::default();
        assert_eq!(access.check(&request(&[HERE], LOCAL)), Err(Refusal::NoRule));
    }

    #[test]
    fn a_rule_decides_and_one_of_several_is_enough() {
        let mut access = Access::default();
        access.allow(|parts| parts.headers.contains_key("x-a"));
        access.allow(|parts| parts.headers.contains_key("x-b"));
        assert_eq!(access.check(&request(&[HERE, ("x-a", "")], None)), Ok(()));
        assert_eq!(access.check(&request(&[HERE, ("x-b", "")], None)), Ok(()));
        assert_eq!(access.check(&request(&[HERE], LOCAL)), Err(Refusal::Rule));
    }

    #[test]
    fn loopback_is_the_peers_address_and_fails_closed() {
        for peer in [
            "127.0.0.1:1",
            "127.9.9.9:1",
            "[::1]:1",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert_eq!(
                loopback().check(&request(&[HERE], Some(peer))),
                Ok(()),
                "{peer}"
            );
        }
        for peer in [
            "10.0.0.1:1",
            "[fe80::1]:1",
            "[::ffff:10.0.0.1]:1",
            "0.0.0.0:1",
        ] {
            let checked = loopback().check(&request(&[HERE], Some(peer)));
            assert_eq!(checked, Err(Refusal::NotLoopback), "{peer}");
        }
        let checked = loopback().check(&request(&[HERE], None));
        assert_eq!(checked, Err(Refusal::NoConnectInfo));
    }

    #[test]
    fn what_a_proxy_forwards_is_not_from_loopback() {
        for name in &FORWARDERS {
            let forwarded = request(&[HERE, (name.as_str(), "1")], LOCAL);
            assert_eq!(
                loopback().check(&forwarded),
                Err(Refusal::Forwarded),
                "{name}"
            );
        }
    }

    #[test]
    fn a_name_that_may_be_rebound_is_refused() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:80",
            "[::1]:3000",
            "LOCALHOST",
            "10.0.0.7:1",
        ] {
            let checked = loopback().check(&request(&[("host", host)], LOCAL));
            assert_eq!(checked, Ok(()), "{host}");
        }
        let forged = [
            "evil.example",
            "localhost.evil.example",
            "evil.example:3000",
            "127.0.0.1.nip.io",
            "localhost@evil.example",
            "evil@localhost",
            "",
            ":80",
            "localhost:80, evil.example",
            "[::1",
            "127.0.0.1 evil",
            "127.1",
        ];
        for host in forged {
            let checked = loopback().check(&request(&[("host", host)], LOCAL));
            assert_eq!(checked, Err(Refusal::Host), "{host}");
        }
        assert_eq!(
            loopback().check(&request(&[], LOCAL)),
            Err(Refusal::Host),
            "none"
        );
        let two = request(&[HERE, ("host", "evil.example")], LOCAL);
        assert_eq!(loopback().check(&two), Err(Refusal::Host), "two");
    }

    #[test]
    fn an_allowed_host_is_served_and_the_target_counts_as_well() {
        let mut access = loopback();
        access.allow_host("debug.example".to_owned());
        assert_eq!(
            access.check(&request(&[("host", "Debug.Example:8080")], LOCAL)),
            Ok(())
        );
        let mut absolute = request(&[HERE], LOCAL);
        absolute.uri = "http://evil.example/".parse().expect("valid");
        assert_eq!(access.check(&absolute), Err(Refusal::Host));
        absolute.uri = "http://debug.example/".parse().expect("valid");
        absolute.headers.remove(HOST);
        assert_eq!(access.check(&absolute), Ok(()), "as in HTTP/2");
    }

    #[test]
    fn another_site_is_refused_also_if_a_rule_would_admit_it() {
        let mut access = loopback();
        access.allow(|_| true);
        for site in [
            "cross-site",
            "same-site",
            "",
            "Same-Origin",
            "none, same-origin",
        ] {
            let checked = access.check(&request(&[HERE, ("sec-fetch-site", site)], LOCAL));
            assert_eq!(checked, Err(Refusal::CrossSite), "{site}");
        }
        for site in ["same-origin", "none"] {
            let checked = access.check(&request(&[HERE, ("sec-fetch-site", site)], LOCAL));
            assert_eq!(checked, Ok(()), "{site}");
        }
    }
}
