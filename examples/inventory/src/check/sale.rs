//! A sale with clients that vanish and retry, and a service that is killed and started again.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use http::Method;
use serde_json::json;
use tokio::{task::JoinSet, time::timeout};

use super::{
    bad_input::order,
    client::{Answer, Client},
    read,
    report::Report,
    server::Server,
};
use crate::{BoxError, catalogue, order::State};

/// Items that everybody wants.
const WANTED: u64 = 25;

/// Kills of the service.
const KILLS: u32 = 5;

/// Time until a client tries again.
const AGAIN: Duration = Duration::from_millis(20);

/// What the clients did, and what happened to them.
#[derive(Default)]
struct Counts {
    answered: AtomicU64,
    vanished: AtomicU64,
    twins: AtomicU64,
    retries: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// What a client was told last about an order.
struct Told {
    key: String,
    /// The number and the state, or none if there was not enough.
    order: Option<(u64, State)>,
}

/// xorshift: each run plays the same sale.
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

struct Buyer {
    client: Client,
    counts: Arc<Counts>,
    dice: Dice,
}

impl Buyer {
    /// Repeats a request until it is answered by a service whose store works.
    async fn insist(&self, path: &str, key: &str, body: &str) -> Answer {
        let headers = [
            ("content-type", "application/json"),
            ("idempotency-key", key),
        ];
        loop {
            let body = body.to_owned();
            match self.client.send(Method::POST, path, &headers, body).await {
                Ok(answer) if !answer.status.is_server_error() => return answer,
                Ok(_) | Err(_) => count(&self.counts.retries),
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn buy(&mut self, key: String) -> Result<Told, BoxError> {
        let build = ["heap", "arena"][self.dice.throw(2) as usize];
        let first = self.dice.throw(WANTED);
        let lines = (0..1 + self.dice.throw(5)).map(|line| {
            let item = (first + line) % WANTED;
            (
                catalogue::item(item as u32).sku.clone(),
                json!(1 + (first + line) % 3),
            )
        });
        let body = order(lines);
        let (client, counts) = (&self.client, &self.counts);
        let path = format!("/{build}/orders");
        match self.dice.throw(10) {
            0 => {
                // Leaves without waiting for the answer, or before all was sent.
                let cut = if self.dice.throw(2) == 0 {
                    body.len()
                } else {
                    body.len() / 2
                };
                let begun = client
                    .begin_order(build, &key, &body[..cut], body.len())
                    .await;
                drop(begun);
                count(&counts.vanished);
            }
            1 => {
                // The same at the same time.
                let twin = (client.clone(), key.clone(), body.clone());
                let twin = tokio::spawn(async move { twin.0.order(build, &twin.1, twin.2).await });
                let answer = self.insist(&path, &key, &body).await;
                if let (Ok(Ok(twin)), 201) = (twin.await, answer.status.as_u16())
                    && twin.status == 201
                    && twin.json != answer.json
                {
                    return Err(format!("{key}: {} and {}", twin.json, answer.json).into());
                }
                count(&counts.twins);
            }
            _ => {}
        }
        let answer = self.insist(&path, &key, &body).await;
        let number = match (answer.status.as_u16(), answer.json["order"].as_u64()) {
            (201, Some(number)) => number,
            (409, None) => return Ok(Told { key, order: None }),
            _ => return Err(format!("{key}: {} {}", answer.status, answer.json).into()),
        };
        let (path, state) = match self.dice.throw(4) {
            0 => ("cancel", State::Cancelled),
            1 => {
                return Ok(Told {
                    key,
                    order: Some((number, State::Reserved)),
                });
            }
            _ => ("confirm", State::Confirmed),
        };
        let path = format!("/orders/{number}/{path}");
        let answer = self.insist(&path, &key, "").await;
        if answer.json["state"] != json!(state) {
            return Err(format!("{path}: {} {}", answer.status, answer.json).into());
        }
        let order = Some((number, state));
        Ok(Told { key, order })
    }
}

pub(super) async fn play(
    report: &mut Report,
    directory: &Path,
    orders: u32,
) -> Result<(), BoxError> {
    let file = directory.join("sale.redb");
    // About a third of what they want.
    let stock = orders / 12 + 1;
    let mut server = Server::start(&file, 0, stock)?;
    let addr = server.addr;
    let counts = Arc::new(Counts::default());
    let buyers = (orders / 50).clamp(8, 128);
    let start = Instant::now();
    let mut running = JoinSet::new();
    for n in 0..buyers {
        let mut buyer = Buyer {
            client: Client::new(addr),
            counts: Arc::clone(&counts),
            dice: Dice(0x9e37_79b9_7f4a_7c15 ^ u64::from(n + 1) << 20),
        };
        let counts = Arc::clone(&counts);
        running.spawn(async move {
            let mut told = Vec::new();
            for order in (n..orders).step_by(buyers as usize) {
                told.push(buyer.buy(format!("buyer-{n}-{order}")).await?);
                count(&counts.answered);
            }
            Ok::<_, BoxError>(told)
        });
    }
    for kill in 1..=KILLS {
        let at = u64::from(orders) * u64::from(kill) / u64::from(KILLS + 1);
        while counts.answered.load(Ordering::Relaxed) < at && !running.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            if running.len() < buyers as usize / 2 {
                break;
            }
        }
        drop(server);
        server = Server::start(&file, addr.port(), stock)?;
    }
    let mut told = Vec::new();
    let bound = Duration::from_secs(60) + start.elapsed() * 2;
    let all = async {
        while let Some(buyer) = running.join_next().await {
            told.extend(buyer??);
        }
        Ok::<_, BoxError>(())
    };
    let ended = timeout(bound, all).await;
    ended.map_err(|_| format!("the sale does not end within {bound:?}"))??;
    let took = start.elapsed();
    drop(server);
    let audit = read(&file)?;

    let known: HashMap<&[u8], u64> = audit
        .keys
        .iter()
        .map(|(key, order)| (&key[..], *order))
        .collect();
    let states: HashMap<u64, State> = audit.orders.iter().copied().collect();
    let placed = told.iter().filter(|told| told.order.is_some()).count();
    let lost = told.iter().filter(|told| {
        told.order.is_some_and(|(order, state)| {
            known.get(told.key.as_bytes()) != Some(&order) || states.get(&order) != Some(&state)
        })
    });
    let lost = lost.count();
    let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    report.expect(
        told.len() == orders as usize && lost == 0 && placed > 0,
        format!(
            "a sale of {orders} orders by {buyers} buyers in {took:.1?}: {placed} placed, {} refused; {lost} of what \
             was told is lost",
            told.len() - placed
        ),
    );
    report.expect(
        of(&counts.vanished) > 0 && of(&counts.twins) > 0 && of(&counts.retries) > 0,
        format!(
            "with {KILLS} kills of the service, {} clients that left, {} requests sent twice at once, {} retries",
            of(&counts.vanished),
            of(&counts.twins),
            of(&counts.retries)
        ),
    );
    report.expect(
        audit.keys.len() == audit.orders.len(),
        format!(
            "{} orders in the store, one for each of {} keys",
            audit.orders.len(),
            audit.keys.len()
        ),
    );
    let wrong = audit.wrong();
    report.expect(
        wrong.is_empty(),
        format!("the stock is what the orders say: {wrong:?}"),
    );
    let empty = audit
        .stock
        .iter()
        .take(WANTED as usize)
        .filter(|stock| stock.available < 3)
        .count();
    report.expect(
        audit.oversold(stock) == 0 && empty > 0,
        format!("nothing is oversold: {empty} of {WANTED} wanted items have fewer than 3 of {stock} left, none too few"),
    );
    Ok(())
}
