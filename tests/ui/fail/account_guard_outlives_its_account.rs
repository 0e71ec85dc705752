use tower_memory::Account;

fn main() {
    let account = Account::new();
    let entered = account.enter();
    drop(account);
    drop(entered);
}
