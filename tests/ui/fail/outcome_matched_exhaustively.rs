use tower_memory::Outcome;

fn is_success(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Completed => true,
        Outcome::Cancelled
        | Outcome::Abandoned
        | Outcome::ClientGone
        | Outcome::DeadlineExceeded
        | Outcome::NotUpgraded
        | Outcome::Panicked
        | Outcome::ServiceError
        | Outcome::Shed
        | Outcome::Shutdown => false,
    }
}

fn main() {
    let _ = is_success;
}
