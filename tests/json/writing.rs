//! Texts of parts, sequences and lists.

use std::{borrow::Cow, cell::Cell, collections::BTreeMap, error::Error};

use axum::response::IntoResponse;
use http_body_util::BodyExt;
use proptest::prelude::*;
use serde::{Serialize, Serializer, ser};
use tower_memory::{
    Arena,
    arena::Parts,
    extract::ArenaJson,
    json::{self, List},
};

fn json(value: &(impl Serialize + ?Sized)) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

/// All ways to write parts write `text`.
fn assert_written(parts: impl Parts, text: &str) {
    let arena = Arena::new();
    assert_eq!(arena.alloc_concat(&parts), text);
    assert_eq!(arena.cursor().alloc_concat(&parts), text);
    assert_eq!(json::concat(&parts).to_string(), text);
    assert_eq!(arena.json_bytes(&json::concat(&parts)).unwrap(), json(text));
    assert_eq!(json(&json::concat(&parts)), json(text));
    let mut list = arena.json_list();
    list.push_text(&parts);
    list.push_text(parts);
    assert_eq!(list.freeze(), json(&[text, text]));
}

proptest! {
    #[test]
    fn any_parts_are_written_as_format_and_serde_json_write_them(
        (a, b) in (any::<String>(), "[\0-\u{7f}]{0,40}"),
        numbers in any::<(u8, i8, u16, i16, u32, i32)>(),
        large in any::<(u64, i64, u128, i128, usize, isize)>(),
        (c, d) in any::<(char, bool)>(),
    ) {
        assert_written((&a, c, &*b, d), &format!("{a}{c}{b}{d}"));
        let (e, f, g, h, i, j) = numbers;
        assert_written((e, f, g, h, i, j, &a, c), &format!("{e}{f}{g}{h}{i}{j}{a}{c}"));
        let (e, f, g, h, i, j) = large;
        assert_written((e, f, g, h, i, j), &format!("{e}{f}{g}{h}{i}{j}"));
    }

    #[test]
    fn texts_around_the_length_of_the_stack_buffer_are_written_whole(
        (a, b) in ("[a-c\"\n\u{e9}\u{1f600}]{0,90}", "[a-c\\\\]{0,90}"), n in any::<u64>(),
    ) {
        assert_written((&a, n, &b), &format!("{a}{n}{b}"));
    }
}

#[test]
fn every_character_of_ascii_is_escaped_as_serde_json_does_it() {
    for byte in 0..=0x7f_u8 {
        let character = char::from(byte);
        assert_written(character, &character.to_string());
        assert_written(("ab", character, "cd"), &format!("ab{character}cd"));
        assert_written(
            (format!("{character}"), '\u{2028}'),
            &format!("{character}\u{2028}"),
        );
    }
}

#[test]
fn parts_are_texts_characters_integers_bools_and_tuples_of_those() {
    let arena = Arena::new();
    let mut string = arena.string();
    string.push_str("d");
    let mut text = String::from("f");
    assert_written(
        (
            ("a", 'b'),
            Cow::Borrowed("c"),
            &string,
            String::from("e"),
            &mut text,
            (1, (true,)),
        ),
        "abcdef1true",
    );
    assert_written(
        (i128::MIN, u128::MAX),
        &format!("{}{}", i128::MIN, u128::MAX),
    );
    assert_written("", "");
}

#[test]
fn a_sequence_is_the_array_of_its_values_each_time() {
    let arena = Arena::new();
    let names = ["a", "b\""];
    let items = json::seq(
        names
            .iter()
            .map(|name| json::concat((name, '-', name.len()))),
    );
    for _ in 0..2 {
        assert_eq!(arena.json_bytes(&items).unwrap(), json(&["a-1", "b\"-2"]));
    }
    assert_eq!(arena.json_bytes(&json::seq([0_u8; 0])).unwrap(), "[]");
    let nested = json::seq((0..3).map(|n| json::seq(0..n)));
    assert_eq!(arena.json_bytes(&nested).unwrap(), "[[],[0],[0,1]]");
}

/// Counts its serializations and fails at the second one.
struct FailsAtTheSecond(Cell<u32>);

impl Serialize for FailsAtTheSecond {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.set(self.0.get() + 1);
        match self.0.get() {
            1 => serializer.serialize_str("once"),
            _ => Err(ser::Error::custom("not twice")),
        }
    }
}

#[test]
fn a_value_that_fails_leaves_the_list_as_it_was() {
    let mut list = Arena::new().json_list();
    // The first value fails: the list stays empty.
    let error = list.push(&BTreeMap::from([([1], 2)])).unwrap_err();
    assert_eq!((error.written(), error.source().is_some()), (2, true));
    assert_eq!(list.freeze(), "[]");

    let mut list = Arena::new().json_list();
    let value = FailsAtTheSecond(Cell::new(0));
    list.push(&(1, &value)).unwrap();
    let error = list.push(&(2, &value)).unwrap_err();
    assert_eq!(error.source().unwrap().to_string(), "not twice");
    list.push_text(("item-", 3));
    assert_eq!(list.freeze(), r#"[[1,"once"],"item-3"]"#);
}

#[test]
fn an_empty_list_takes_no_memory_and_is_an_empty_array() {
    let arena = Arena::new();
    let list = arena.json_list();
    assert_eq!(arena.capacity(), 0);
    assert_eq!(list.freeze(), "[]");
}

#[tokio::test]
async fn a_list_is_filled_on_several_tasks_and_sent_as_json() {
    let mut list: List = Arena::new().json_list();
    for n in 0..1000 {
        list = tokio::spawn(async move {
            list.push_text(("item-", n));
            tokio::task::yield_now().await;
            list
        })
        .await
        .unwrap();
    }
    let response = list.into_response();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/json");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let expected: Vec<_> = (0..1000).map(|n| format!("item-{n}")).collect();
    assert_eq!(body, json(&expected));
}

#[tokio::test]
async fn a_sequence_of_texts_is_a_response() {
    let items = json::seq((0..1000).map(|n| json::concat(("item-", n))));
    let body = ArenaJson(items).into_response().into_body();
    let body = body.collect().await.unwrap().to_bytes();
    let expected: Vec<_> = (0..1000).map(|n| format!("item-{n}")).collect();
    assert_eq!(body, json(&expected));
}
