use std::fmt;

/// The parameters of a page. Each has a name that the page knows, and occurs once.
#[derive(Debug)]
pub(super) struct Query<'a>(Vec<(&'a str, &'a str)>);

/// Why a request was answered with `400`. Shows nothing of what was sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadQuery {
    Unknown(&'static [&'static str]),
    Repeated(&'static str),
    NotIn(&'static str, u64, u64),
    NotOneOf(&'static str, &'static [&'static str]),
}

impl fmt::Display for BadQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown([]) => f.write_str("this page has no parameters"),
            Self::Unknown(names) => {
                write!(f, "unknown parameter: this page has {}", names.join(", "))
            }
            Self::Repeated(name) => write!(f, "{name} is given twice"),
            Self::NotIn(name, least, most) => {
                write!(f, "{name} must be a whole number from {least} to {most}")
            }
            Self::NotOneOf(name, values) => {
                write!(f, "{name} must be one of {}", values.join(", "))
            }
        }
    }
}

impl<'a> Query<'a> {
    /// Parses a query of which the page knows `names`.
    pub(super) fn parse(
        query: Option<&'a str>,
        names: &'static [&'static str],
    ) -> Result<Self, BadQuery> {
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        let parts = query.unwrap_or("").split('&');
        for part in parts.filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let Some(name) = names.iter().find(|known| **known == name) else {
                return Err(BadQuery::Unknown(names));
            };
            if pairs.iter().any(|pair| pair.0 == *name) {
                return Err(BadQuery::Repeated(name));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|pair| pair.0 == name).map(|pair| pair.1)
    }

    /// A number within bounds; `None` if it is absent.
    pub(super) fn number(
        &self,
        name: &'static str,
        least: u64,
        most: u64,
    ) -> Result<Option<u64>, BadQuery> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let bad = BadQuery::NotIn(name, least, most);
        // Digits alone: `parse` would take a sign.
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad);
        }
        match value.parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(Some(number)),
            _ => Err(bad),
        }
    }

    /// The position of the value in `values`; `None` if it is absent.
    pub(super) fn one_of(
        &self,
        name: &'static str,
        values: &'static [&'static str],
    ) -> Result<Option<usize>, BadQuery> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let position = values.iter().position(|known| *known == value);
        let bad = BadQuery::NotOneOf(name, values);
        position.ok_or(bad).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(query: &str) -> Result<Option<u64>, BadQuery> {
        Query::parse(Some(query), &["seconds", "debug"])?.number("seconds", 1, 60)
    }

    #[test]
    fn a_number_is_digits_within_bounds() {
        assert_eq!(seconds(""), Ok(None));
        assert_eq!(seconds("debug=1"), Ok(None));
        assert_eq!(seconds("debug=1&seconds=60"), Ok(Some(60)));
        for bad in [
            "-1",
            "+1",
            "0",
            "61",
            "",
            "1.5",
            "1e1",
            "%31",
            "99999999999999999999999",
            "NaN",
            " 1",
        ] {
            let error = seconds(&format!("seconds={bad}")).expect_err(bad);
            assert_eq!(
                error.to_string(),
                "seconds must be a whole number from 1 to 60"
            );
        }
    }

    #[test]
    fn what_the_page_does_not_know_is_refused_and_not_repeated_in_the_answer() {
        let error = seconds("<script>=1").expect_err("unknown");
        assert_eq!(
            error.to_string(),
            "unknown parameter: this page has seconds, debug"
        );
        let error = seconds("seconds=1&seconds=2").expect_err("twice");
        assert_eq!(error.to_string(), "seconds is given twice");
        let error = Query::parse(Some("x"), &[]).expect_err("unknown");
        assert_eq!(error.to_string(), "this page has no parameters");
    }
}
