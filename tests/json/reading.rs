//! Values that borrow from JSON and from an arena.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write as _};

use proptest::prelude::*;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use tower_memory::{Arena, json::DeserializeError};

/// Reads `text` as two types that differ only in how they hold texts. Both are read alike, or
/// refused for the same reason at the same place.
fn assert_alike<'a, B, O>(arena: &'a Arena, text: &'a [u8])
where
    B: Deserialize<'a> + Serialize,
    O: DeserializeOwned + Serialize,
{
    let ours: Result<B, DeserializeError> = arena.deserialize_json(text);
    match (ours, serde_json::from_slice::<O>(text)) {
        (Ok(ours), Ok(owned)) => {
            assert_eq!(written(&ours), written(&owned));
        }
        (Err(ours), Err(owned)) => {
            assert_eq!((ours.line(), ours.column()), (owned.line(), owned.column()));
            let is_data = owned.classify() == serde_json::error::Category::Data;
            assert_eq!(ours.status(), if is_data { 422 } else { 400 });
            if owned.to_string().len() < 200 {
                assert!(
                    ours.to_string().ends_with(&owned.to_string()),
                    "{ours} / {owned}"
                );
            }
        }
        (ours, owned) => panic!(
            "{:?} / {:?} for {:?}",
            ours.map(|ours| written(&ours)),
            owned.map(|owned| written(&owned)),
            String::from_utf8_lossy(text)
        ),
    }
}

fn written(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

/// A text as JSON in which each character is escaped as `how` says: not if that is possible, by a
/// letter, or by its code, as a surrogate pair beyond the first plane.
fn escaped(text: &str, how: &[u8]) -> String {
    let mut json = String::from("\"");
    for (character, how) in text.chars().zip(how.iter().cycle()) {
        let short = "\"\"\\\\//\x08b\x0cf\nn\rr\tt"
            .as_bytes()
            .chunks(2)
            .find(|pair| char::from(pair[0]) == character);
        match (how % 3, short) {
            (0, None) if character >= ' ' => json.push(character),
            (0, Some(b"//")) => json.push('/'),
            (0 | 1, Some(pair)) => json.extend(['\\', char::from(pair[1])]),
            _ => {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(json, "\\u{unit:04X}").unwrap();
                }
            }
        }
    }
    json + "\""
}

// Or errors about what is no object would name the type.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct Borrowed<'a> {
    id: u64,
    name: &'a str,
    #[serde(borrow)]
    cow: Cow<'a, str>,
    owned: String,
    #[serde(borrow, default)]
    tags: Vec<&'a str>,
    #[serde(default)]
    map: BTreeMap<&'a str, Option<&'a str>>,
    #[serde(borrow, default)]
    kind: Option<Kind<'a>>,
    #[serde(borrow, default)]
    any: Option<Untagged<'a>>,
    pair: (i8, f64, char, bool),
    big: i128,
    unit: (),
    wrapped: Wrapped<&'a str>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct Owned {
    id: u64,
    name: String,
    cow: String,
    owned: String,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    map: BTreeMap<String, Option<String>>,
    #[serde(default)]
    kind: Option<Kind<'static, String>>,
    #[serde(default)]
    any: Option<Untagged<'static, String>>,
    pair: (i8, f64, char, bool),
    big: i128,
    unit: (),
    wrapped: Wrapped<String>,
}

#[derive(Deserialize, Serialize)]
struct Wrapped<T>(T);

#[derive(Deserialize, Serialize)]
enum Kind<'a, T = &'a str> {
    Unit,
    New(T),
    Tuple(T, u8),
    Struct {
        text: T,
    },
    #[serde(skip)]
    _Lifetime(&'a ()),
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Untagged<'a, T = &'a str> {
    Number(i64),
    Text(T),
    Texts(Vec<T>),
    Named {
        text: T,
    },
    #[serde(skip)]
    _Lifetime(&'a ()),
}

/// A text of every kind in every field. `how` escapes them.
fn object(texts: &[String], how: &[u8], number: i64) -> String {
    let text = |nth: usize| escaped(&texts[nth % texts.len()], how);
    let kind = match number.rem_euclid(6) {
        0 => "\"Unit\"".to_owned(),
        1 => format!("{{\"New\":{}}}", text(1)),
        2 => format!("{{\"Tuple\":[{},7]}}", text(2)),
        3 => format!("{{\"Struct\":{{\"text\":{}}}}}", text(3)),
        4 => "null".to_owned(),
        _ => "\"Other\"".to_owned(),
    };
    let any = match number.rem_euclid(5) {
        0 => number.to_string(),
        1 => text(1),
        2 => format!("[{},{}]", text(0), text(2)),
        3 => format!("{{ \"text\" : {} }}", text(3)),
        _ => "null".to_owned(),
    };
    format!(
        "{{\"id\":{number},\"name\":{},\"cow\":{},\"owned\":{},\"tags\":[{},{}],\n\"map\":{{{}:{},{}:null}},\
         \"kind\":{kind},\"any\":{any},\"pair\":[{},{}.5e2,\"\\u00e9\",true],\"big\":{},\"unit\":null,\
         \"wrapped\":{}}}",
        text(0),
        text(1),
        text(2),
        text(3),
        text(4),
        text(0),
        text(1),
        escaped("another key", how),
        number % 128,
        number,
        i128::from(number) * i128::from(i64::MAX),
        text(2),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_text_is_read_whole_and_borrowed_from_the_input_if_it_has_no_escapes(
        text in any::<String>(), how in prop::collection::vec(any::<u8>(), 1..8),
    ) {
        let arena = Arena::new();
        for how in [&how[..], &[0], &[1], &[2]] {
            let json = escaped(&text, how);
            let read: &str = arena.deserialize_json(json.as_bytes()).unwrap();
            prop_assert_eq!(read, &text);
            let of_input = json.as_bytes().as_ptr_range().contains(&read.as_ptr());
            prop_assert_eq!(of_input, !json.contains('\\'), "{}", json);
        }
    }

    #[test]
    fn every_kind_of_field_is_read_as_with_strings(
        texts in prop::collection::vec(any::<String>(), 1..5),
        how in prop::collection::vec(any::<u8>(), 1..8),
        number in prop_oneof![0..100_i64, any::<i64>()],
    ) {
        let json = object(&texts, &how, number);
        assert_alike::<Borrowed<'_>, Owned>(&Arena::new(), json.as_bytes());
    }

    #[test]
    fn json_that_is_cut_off_or_changed_is_refused_as_with_strings(
        (at, byte, cut) in any::<(prop::sample::Index, u8, bool)>(),
        how in prop::collection::vec(any::<u8>(), 1..8),
    ) {
        let texts = ["tea \"Assam\"".to_owned(), "\u{1f600}\n".to_owned(), "plain".to_owned()];
        let mut json = object(&texts, &how, 3).into_bytes();
        let at = at.index(json.len());
        if cut { json.truncate(at) } else { json[at] = byte }
        assert_alike::<Borrowed<'_>, Owned>(&Arena::new(), &json);
        assert_alike::<Value, Value>(&Arena::new(), &json);
    }

    #[test]
    fn any_bytes_are_read_as_serde_json_reads_them(
        bytes in prop::collection::vec(prop_oneof![
            any::<u8>(), prop::sample::select(&b"{}[]\",:\\u0123dDaAeE+-. \n"[..]),
        ], 0..40),
    ) {
        assert_alike::<Value, Value>(&Arena::new(), &bytes);
        assert_alike::<Vec<&str>, Vec<String>>(&Arena::new(), &bytes);
    }

    #[test]
    fn numbers_are_read_as_serde_json_reads_them(number in "-?[0-9]{1,40}(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?") {
        let arena = Arena::new();
        assert_alike::<f64, f64>(&arena, number.as_bytes());
        assert_alike::<u64, u64>(&arena, number.as_bytes());
        assert_alike::<i128, i128>(&arena, number.as_bytes());
        assert_alike::<Value, Value>(&arena, number.as_bytes());
    }
}

#[test]
fn surrogates_without_their_pair_are_refused_as_with_strings() {
    let arena = Arena::new();
    for json in [
        r#""\ud83d\ude00""#,
        r#""\ud83d""#,
        r#""\ude00""#,
        r#""\ud83d\u0041""#,
        r#""\ud83dx""#,
        r#""\ud83d\ud83d""#,
        r#""\u12""#,
        r#""\x41""#,
        "\"\u{7f}\"",
        "\"\n\"",
        "\"",
        "\"\\",
    ] {
        assert_alike::<&str, String>(&arena, json.as_bytes());
    }
    assert_alike::<&str, String>(&arena, b"\"\xff\"");
    assert_alike::<&str, String>(&arena, b"\"\\n\xed\xa0\x80\"");
}

#[test]
fn nesting_is_read_up_to_128_levels() {
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    let arena = Arena::new();
    for levels in [1, 127, 128, 100_000] {
        assert_alike::<Value, Value>(&arena, nested(levels).as_bytes());
    }
    arena
        .deserialize_json::<Value>(nested(127).as_bytes())
        .unwrap();
    let error = arena
        .deserialize_json::<Value>(nested(128).as_bytes())
        .unwrap_err();
    assert_eq!(error.status(), 400);
    assert!(
        error
            .to_string()
            .ends_with("recursion limit exceeded at line 1 column 128")
    );
}

#[derive(Debug, Deserialize)]
struct Order<'a> {
    #[serde(borrow)]
    #[expect(dead_code, reason = "read for its errors")]
    lines: Vec<Line<'a>>,
}

#[derive(Debug, Deserialize)]
#[expect(dead_code, reason = "read for their errors")]
struct Line<'a> {
    sku: &'a str,
    qty: u32,
}

#[test]
fn an_error_says_where_and_why() {
    let arena = Arena::new();
    for (json, path, text) in [
        (
            r#"{"lines":[{"sku":"a","qty":1},{"sku":"b","qty":"x\""}]}"#,
            Some("lines[1].qty"),
            r#"lines[1].qty: invalid type: string "x\"", expected u32 at line 1 column 52"#,
        ),
        (
            r#"{"lines":[{"sku":"a"}]}"#,
            Some("lines[0]"),
            "lines[0]: missing field `qty` at line 1 column 21",
        ),
        (
            "{\"lines\":\n[{\"sku\":null}]}",
            Some("lines[0].sku"),
            "lines[0].sku: invalid type: null, expected a string at line 2 column 12",
        ),
        ("{}", None, "missing field `lines` at line 1 column 2"),
        (
            "{\"lines\":[]} x",
            None,
            "trailing characters at line 1 column 14",
        ),
        ("", None, "EOF while parsing a value at line 1 column 0"),
        (
            "{\"lines\":[{\"sku\":\"a",
            Some("lines[0].sku"),
            "lines[0].sku: EOF while parsing a string at line 1 column 19",
        ),
    ] {
        let error = arena
            .deserialize_json::<Order<'_>>(json.as_bytes())
            .unwrap_err();
        assert_eq!((error.path(), &*error.to_string()), (path, text));
    }
}

#[test]
fn an_error_quotes_little_of_a_long_text() {
    let arena = Arena::new();
    for long in ["x".repeat(1 << 20), "\u{e9}\u{1f600}".repeat(1 << 16)] {
        let json = format!(r#"{{"lines":[{{"sku":"a","qty":"{long}"}}]}}"#);
        let error = arena
            .deserialize_json::<Order<'_>>(json.as_bytes())
            .unwrap_err();
        let text = error.to_string();
        assert!(text.len() < 700, "{}", text.len());
        assert!(
            text.starts_with("lines[0].qty: invalid type: string \""),
            "{text}"
        );
        let end = format!("expected u32 at line 1 column {}", error.column());
        assert!(text.ends_with(&end), "{text}");

        let json = format!(r#"{{"{long}":{{"{long}":1}}}}"#);
        type Nested<'a> = BTreeMap<&'a str, BTreeMap<&'a str, &'a str>>;
        let error = arena
            .deserialize_json::<Nested<'_>>(json.as_bytes())
            .unwrap_err();
        assert!(error.path().unwrap().len() > 2 * long.len());
        assert!(error.to_string().len() < 700);
    }
}
