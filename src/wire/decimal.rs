//! Decimal digits of numbers, without the machinery of `fmt`.

/// Numbers below this have a static text.
const SHORT: usize = 10_000;

/// The numbers below [`SHORT`], in four digits each.
static QUADS: [u8; 4 * SHORT] = {
    let mut quads = [b'0'; 4 * SHORT];
    let mut number = 0;
    while number < SHORT {
        let (mut rest, mut place) = (number, 4);
        while place > 0 {
            place -= 1;
            quads[4 * number + place] += (rest % 10) as u8;
            rest /= 10;
        }
        number += 1;
    }
    quads
};

static QUADS_TEXT: &str = match std::str::from_utf8(&QUADS) {
    Ok(text) => text,
    Err(_) => panic!("digits are ASCII"),
};

/// The digits of a number of at most four, followed by others, and how many they are. Four bytes are copied
/// faster than as many as there are.
#[inline]
pub(super) fn quad(number: u64) -> Option<(&'static [u8; 4], usize)> {
    if number >= SHORT as u64 {
        return None;
    }
    let number = number as usize;
    let zeros = usize::from(number < 10) + usize::from(number < 100) + usize::from(number < 1000);
    let digits = QUADS.get(4 * number + zeros..)?.first_chunk()?;
    Some((digits, 4 - zeros))
}

/// The digits of a number of at most four.
#[inline]
pub(super) fn short_decimal(number: u64) -> Option<&'static str> {
    if number >= SHORT as u64 {
        return None;
    }
    let number = number as usize;
    let zeros = usize::from(number < 10) + usize::from(number < 100) + usize::from(number < 1000);
    QUADS_TEXT.get(4 * number + zeros..4 * number + 4)
}

/// Writes the digits of `number` to the end of `digits`, and returns them.
pub(super) fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut start = digits.len();
    // Five times at most, which is 20 digits.
    while number >= SHORT as u64 {
        let quad = 4 * (number % SHORT as u64) as usize;
        number /= SHORT as u64;
        put_before(&mut start, QUADS.get(quad..quad + 4).unwrap_or(&[]), digits);
    }
    let first = short_decimal(number).unwrap_or("");
    put_before(&mut start, first.as_bytes(), digits);
    digits.get(start..).unwrap_or(&[])
}

#[inline]
fn put_before(start: &mut usize, text: &[u8], digits: &mut [u8; 20]) {
    let from = start.saturating_sub(text.len());
    if let Some(room) = digits.get_mut(from..*start) {
        room.copy_from_slice(text);
        *start = from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_std_writes_them() {
        let edges = (0..20).flat_map(|digits| {
            let power = 10_u64.pow(digits);
            [power - 1, power, power + 1]
        });
        let mut numbers: Vec<u64> = edges
            .chain([u64::from(u32::MAX), u64::MAX - 1, u64::MAX])
            .collect();
        numbers.extend(0..20_000);
        for number in numbers {
            let expected = number.to_string();
            assert_eq!(decimal(number, &mut [0; 20]), expected.as_bytes());
            let short = short_decimal(number);
            assert_eq!(short, (number < 10_000).then_some(expected.as_str()));
            let quad = quad(number).and_then(|(digits, len)| digits.get(..len));
            assert_eq!(quad, short.map(str::as_bytes));
        }
    }
}
