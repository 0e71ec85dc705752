//! What is sold. It is fixed, so it needs no store.

use std::{collections::HashMap, sync::LazyLock};

pub(crate) const ITEMS: usize = 400;

pub(crate) struct Item {
    pub(crate) sku: String,
    pub(crate) name: String,
    pub(crate) cents: u32,
}

/// The number of an item: its place in the catalogue.
pub(crate) type ItemNumber = u32;

static CATALOGUE: LazyLock<(Vec<Item>, HashMap<&'static str, ItemNumber>)> = LazyLock::new(|| {
    const KINDS: [&str; 8] = [
        "Kettle", "Teapot", "Cup", "Saucer", "Spoon", "Tray", "Tin", "Whisk",
    ];
    let items: Vec<Item> = (0..ITEMS)
        .map(|n| {
            let kind = KINDS[n % KINDS.len()];
            Item {
                sku: format!("{}-{n:03}", kind.to_lowercase()),
                name: format!("{kind} No. {n}"),
                cents: 199 + 50 * (n as u32 % 37),
            }
        })
        .collect();
    let by_sku = items.iter().zip(0..);
    let by_sku = by_sku.map(|(item, number)| (&*String::leak(item.sku.clone()), number));
    let by_sku = by_sku.collect();
    (items, by_sku)
});

pub(crate) fn items() -> &'static [Item] {
    &CATALOGUE.0
}

pub(crate) fn item(number: ItemNumber) -> &'static Item {
    &CATALOGUE.0[number as usize]
}

pub(crate) fn find(sku: &str) -> Option<ItemNumber> {
    CATALOGUE.1.get(sku).copied()
}
