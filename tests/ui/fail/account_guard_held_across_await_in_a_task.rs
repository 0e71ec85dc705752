use tower_memory::Account;

async fn work() {
    let account = Account::new();
    let _entered = account.enter();
    tokio::task::yield_now().await;
}

fn main() {
    drop(tokio::spawn(work()));
}
