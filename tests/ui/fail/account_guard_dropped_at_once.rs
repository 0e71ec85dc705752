#![deny(unused_must_use)]

use tower_memory::Account;

fn main() {
    let account = Account::new();
    account.enter();
}
