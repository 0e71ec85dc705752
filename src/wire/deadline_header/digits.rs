use super::error::ParseDeadlineError;

/// Parses `text`, which must be one or more digits. `offset` is its position in the header's value.
pub(super) fn number(text: &[u8], offset: usize) -> Result<u64, ParseDeadlineError> {
    if text.is_empty() {
        return Err(ParseDeadlineError::no_digit(offset));
    }
    let mut number = 0_u64;
    for (at, byte) in (offset..).zip(text) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return Err(ParseDeadlineError::no_digit(at));
        }
        number = number
            .checked_mul(10)
            .and_then(|number| number.checked_add(u64::from(digit)))
            .ok_or_else(|| ParseDeadlineError::out_of_range(text.len()))?;
    }
    Ok(number)
}
