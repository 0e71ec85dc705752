use tower_memory::{Account, account::Entered};

fn forged(account: &Account) -> Entered<'_> {
    Entered { account }
}

fn main() {
    let _ = forged;
}
