//! What is made in an arena, with its cursors and in its buffers is what the same is as owned values, and nothing
//! overlaps.

use bytes::{BufMut, Bytes};
use tower_memory::{Arena, ArenaPool};

use super::input::Input;

/// Frozen bytes, and what they must be.
type Sent = Vec<(Bytes, Vec<u8>)>;

/// Panics if something does not hold.
pub(crate) fn holds(data: &[u8]) {
    let mut input = Input(data);
    let pool = ArenaPool::builder()
        .initial_bytes([1, 64, 4096, 100_000][input.below(4)])
        .max_arena_bytes(200_000)
        .max_total_bytes(1_000_000)
        .zero_on_recycle(input.flag())
        .build()
        .expect("valid settings");
    let mut sent = Sent::new();
    // Each round but the first on memory that was used before.
    for number in 0..4 {
        let arena = pool.rent();
        assert_eq!(arena.allocated_bytes(), 0);
        round(&arena, number, &mut input, &mut sent);
        for (bytes, model) in &sent {
            assert_eq!(bytes, model);
        }
    }
    assert_eq!(pool.stats().rented, 0);
    drop(sent);
    let left = pool.stats();
    assert_eq!(
        (left.buffers, pool.buffer_bytes(), left.rented_bytes),
        (0, 0, 0)
    );
}

fn pattern(round: usize, step: usize, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| (round * 101 + step * 31 + i * 7 + (i >> 8)) as u8)
        .collect()
}

fn letters(step: usize, len: usize) -> String {
    ['a', 'é', '漢', '😀']
        .iter()
        .cycle()
        .skip(step % 4)
        .take(len / 4)
        .collect()
}

fn round(arena: &Arena, number: usize, input: &mut Input<'_>, sent: &mut Sent) {
    let mut bytes: Vec<(&mut [u8], Vec<u8>)> = Vec::new();
    let mut words: Vec<(&mut [u64], Vec<u64>)> = Vec::new();
    let mut texts: Vec<(&mut str, String)> = Vec::new();
    let mut cursor = arena.cursor();
    let (mut list, mut list_model) = (arena.vec(), Vec::new());
    let (mut buf, mut buf_model) = (arena.buf(), Vec::new());
    for step in 0..48 {
        if input.is_empty() {
            break;
        }
        let op = input.below(18);
        let size = input.size();
        let model = pattern(number, step, size);
        match op {
            0 => bytes.push((arena.alloc_slice_copy(&model), model)),
            1 => bytes.push((cursor.alloc_slice_copy(&model), model)),
            2 => {
                let mut made = cursor.vec();
                made.extend(model.iter().copied());
                made.truncate(size - size / 3);
                bytes.push((made.into_slice(), model[..size - size / 3].to_vec()));
            }
            3 => {
                let model = letters(step, size);
                let mut made = cursor.string();
                made.push_str(&model);
                texts.push((made.into_str(), model));
            }
            4 => {
                let model = letters(step, size);
                let made = arena.alloc_fmt(format_args!("{step:>3}{model}"));
                texts.push((made, format!("{step:>3}{model}")));
            }
            5 => {
                let model: Vec<u64> = (0..size as u64).collect();
                words.push((cursor.alloc_slice_fill_iter(model.iter().copied()), model));
            }
            6 => words.push((
                std::slice::from_mut(arena.alloc(step as u64)),
                vec![step as u64],
            )),
            7 => cursor = arena.cursor(),
            8 => {
                list.extend_from_slice(&model);
                list_model.extend_from_slice(&model);
            }
            9 => {
                list.truncate(size);
                list_model.truncate(size);
            }
            10 => {
                let made = std::mem::replace(&mut list, arena.vec());
                bytes.push((made.into_slice(), std::mem::take(&mut list_model)));
            }
            11 => {
                buf.put_slice(&model);
                buf_model.put_slice(&model);
            }
            12 => {
                buf.truncate(size);
                buf_model.truncate(size);
            }
            13 => sent.push((buf.split().freeze(), std::mem::take(&mut buf_model))),
            14 => {
                let made = std::mem::replace(&mut buf, arena.buf());
                sent.push((made.freeze(), std::mem::take(&mut buf_model)));
            }
            15 => {
                buf.reserve(size);
                assert!(buf.spare_capacity() >= size);
            }
            16 => {
                if let Some((whole, model)) = sent.get(step % sent.len().max(1)) {
                    let part = whole.len() / 3..whole.len() - whole.len() / 4;
                    let model = model[part.clone()].to_vec();
                    sent.push((whole.slice(part), model));
                }
            }
            _ => sent.truncate(size),
        }
    }
    // What was made is written once more: nothing else may show it.
    for (made, model) in &mut bytes {
        assert_eq!(made, model);
        made.reverse();
        model.reverse();
    }
    assert_eq!((&list[..], &buf[..]), (&list_model[..], &buf_model[..]));
    assert!(bytes.iter().all(|(made, model)| made == model));
    assert!(texts.iter().all(|(made, model)| *made == model));
    assert!(words.iter().all(|(made, model)| made == model));

    let mut spans: Vec<_> = bytes.iter().map(|(made, _)| made.as_ptr_range()).collect();
    spans.extend(texts.iter().map(|(made, _)| made.as_bytes().as_ptr_range()));
    spans.push(list.as_ptr_range());
    let mut spans: Vec<_> = spans
        .iter()
        .map(|span| (span.start.addr(), span.end.addr()))
        .collect();
    spans.extend(words.iter().map(|(made, _)| {
        let span = made.as_ptr_range();
        (span.start.addr(), span.end.addr())
    }));
    spans.retain(|(start, end)| start < end);
    spans.sort_unstable();
    assert!(
        spans.windows(2).all(|pair| pair[0].1 <= pair[1].0),
        "{spans:?}"
    );
    let used: usize = spans.iter().map(|(start, end)| end - start).sum();
    assert!(used <= arena.allocated_bytes() && arena.allocated_bytes() <= arena.capacity());
}
