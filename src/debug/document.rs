use maud::{DOCTYPE, Markup, PreEscaped, html};

const STYLE: &str = include_str!("style.css");

/// What the pages may load: their own style, and nothing else. No script runs.
pub(super) const POLICY: &str = "default-src 'none'; style-src 'sha256-N7quynOVCP2ayrNc+etkfYLtFKM5BBokAJQmdtVbq34='; \
     img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A whole page. `base` is where links to the other pages start.
pub(super) fn document(
    title: &str,
    base: &str,
    links: &[(&str, &str)],
    content: &Markup,
) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { (title) }
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (title) }
                    nav aria-label="Pages" {
                        @for (path, name) in links { a href={ (base) (path) } { (name) } }
                    }
                }
                main { (content) }
            }
        }
    };
    page.into_string()
}

/// A table, which scrolls by itself if the window is narrow.
pub(super) fn table(
    label: &str,
    headings: &Markup,
    rows: impl IntoIterator<Item = Markup>,
) -> Markup {
    html! {
        div class="wide" role="region" aria-label=(label) tabindex="0" {
            table {
                thead { tr { (headings) } }
                tbody { @for row in rows { (row) } }
            }
        }
    }
}

/// Headings of columns: of figures, and of a text at the end.
pub(super) fn headings(figures: &[&str], text: Option<&str>) -> Markup {
    html! {
        @for heading in figures { th scope="col" { (heading) } }
        @if let Some(heading) = text { th scope="col" class="text" { (heading) } }
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_STANDARD};
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_policy_has_the_hash_of_the_style() {
        let hash = BASE64_STANDARD.encode(Sha256::digest(STYLE));
        assert!(POLICY.contains(&format!("'sha256-{hash}'")), "{hash}");
    }
}
