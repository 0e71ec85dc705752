//! Reads the figures in the headers of a response, by parsers that are not the crate's.

use std::collections::BTreeMap;

use http::HeaderMap;
use sfv::{BareItem, Dictionary, ListEntry, Parser};
use tower_memory::header;

/// Names without `x-`, and values as text.
pub(crate) type Figures = BTreeMap<String, String>;

pub(crate) fn of_fields(headers: &HeaderMap) -> Figures {
    let names = [
        header::X_ALLOC_BYTES,
        header::X_ALLOC_COUNT,
        header::X_ALLOC_PEAK,
        header::X_ALLOC_ROUTE,
        header::X_ARENA_BYTES,
        header::X_ARENA_SOURCE,
    ];
    names
        .iter()
        .filter_map(|name| {
            let text = String::from_utf8(headers.get(name)?.as_bytes().to_vec()).unwrap();
            let name = name.as_str().strip_prefix("x-").unwrap();
            Some((name.to_owned(), text))
        })
        .collect()
}

pub(crate) fn of_dictionary(headers: &HeaderMap) -> Figures {
    let text = headers[header::MEMORY_USAGE].as_bytes();
    let dictionary: Dictionary = Parser::new(text).parse().expect("RFC 9651");
    dictionary
        .iter()
        .map(|(key, entry)| {
            let ListEntry::Item(item) = entry else {
                panic!("{key} is a list");
            };
            assert!(item.params.is_empty());
            let value = match &item.bare_item {
                BareItem::Integer(number) => number.to_string(),
                BareItem::Token(token) => token.as_str().to_owned(),
                BareItem::String(text) => text.as_str().to_owned(),
                BareItem::DisplayString(text) => text.clone(),
                other => panic!("{key} is {other:?}"),
            };
            (key.as_str().to_owned(), value)
        })
        .collect()
}

/// A name, and parameters with their values.
type Metric = (String, Vec<(String, Vec<u8>)>);

/// The metrics of `Server-Timing`.
///
/// `metric = token *( OWS ";" OWS token OWS "=" OWS ( token / quoted-string ) )`, in a list.
fn server_timing(text: &[u8]) -> Vec<Metric> {
    struct Rest<'a>(&'a [u8]);
    impl Rest<'_> {
        fn blank(&mut self) {
            while let [b' ' | b'\t', rest @ ..] = self.0 {
                self.0 = rest;
            }
        }

        fn token(&mut self) -> String {
            let is_token =
                |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
            let end = self
                .0
                .iter()
                .position(|byte| !is_token(byte))
                .unwrap_or(self.0.len());
            let (token, rest) = self.0.split_at(end);
            assert!(!token.is_empty(), "no token at {:?}", self.0);
            self.0 = rest;
            String::from_utf8(token.to_vec()).unwrap()
        }

        fn quoted(&mut self) -> Vec<u8> {
            let mut text = Vec::new();
            loop {
                match self.0 {
                    [b'"', rest @ ..] => {
                        self.0 = rest;
                        return text;
                    }
                    [b'\\', byte, rest @ ..] => {
                        text.push(*byte);
                        self.0 = rest;
                    }
                    [byte @ (b'\t' | b' '..=b'~' | 0x80..), rest @ ..] => {
                        text.push(*byte);
                        self.0 = rest;
                    }
                    other => panic!("no text in quotes: {other:?}"),
                }
            }
        }
    }
    let mut rest = Rest(text);
    let mut metrics = Vec::new();
    loop {
        rest.blank();
        let name = rest.token();
        let mut parameters = Vec::new();
        rest.blank();
        while let [b';', after @ ..] = rest.0 {
            rest.0 = after;
            rest.blank();
            let name = rest.token();
            rest.blank();
            let [b'=', after @ ..] = rest.0 else {
                panic!("{name} has no value");
            };
            rest.0 = after;
            rest.blank();
            let value = if let [b'"', after @ ..] = rest.0 {
                rest.0 = after;
                rest.quoted()
            } else {
                rest.token().into_bytes()
            };
            parameters.push((name, value));
            rest.blank();
        }
        metrics.push((name, parameters));
        match rest.0 {
            [] => return metrics,
            [b',', after @ ..] => rest.0 = after,
            other => panic!("no end of a metric: {other:?}"),
        }
    }
}

pub(crate) fn of_server_timing(headers: &HeaderMap) -> Figures {
    let lines: Vec<_> = headers.get_all("server-timing").iter().collect();
    assert_eq!(lines.len(), 2, "the handler's line stays");
    let duration = ("dur".to_owned(), b"5.3".to_vec());
    assert_eq!(
        server_timing(lines[0].as_bytes()),
        [("db".to_owned(), vec![duration])]
    );
    server_timing(lines[1].as_bytes())
        .into_iter()
        .map(|(name, parameters)| {
            let [(parameter, value)] = &parameters[..] else {
                panic!("{parameters:?}");
            };
            assert_eq!(parameter, "desc");
            (name, String::from_utf8(value.clone()).unwrap())
        })
        .collect()
}
