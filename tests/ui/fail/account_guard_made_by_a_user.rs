use tower_memory::{Account, account::Entered};

fn forged(_account: &Account) -> Entered<'_> {
    Entered {}
}

fn main() {
    let _ = forged;
}
