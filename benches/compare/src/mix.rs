//! The mixes of the Yahoo! Cloud Serving Benchmark (B. F. Cooper et al., 2010).
//!
//! Keys are drawn by Zipf's law with the exponent 0.99, by the method of J. Gray et al. ("Quickly
//! generating billion-record synthetic databases", 1994). Popular keys are scattered.

/// The exponent of Zipf's law.
const EXPONENT: f64 = 0.99;

/// One operation, with the number of its key, and of the version that it writes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation {
    Read(u64),
    Write(u64, usize),
    ReadThenWrite(u64, usize),
}

/// A mix of reads and other operations.
pub(crate) struct Mix {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
    /// The reads in a hundred operations.
    reads: u64,
    rest: Rest,
}

/// The operations of a mix that are not reads.
enum Rest {
    Update,
    ReadThenUpdate,
    /// Inserts a new key. Reads prefer the latest ones.
    Insert,
}

pub(crate) const MIXES: [Mix; 5] = [
    Mix { name: "A", text: "half reads, half updates", reads: 50, rest: Rest::Update },
    Mix { name: "B", text: "95 % reads, 5 % updates", reads: 95, rest: Rest::Update },
    Mix { name: "C", text: "reads", reads: 100, rest: Rest::Update },
    Mix { name: "D", text: "95 % reads of the latest keys, 5 % new ones", reads: 95, rest: Rest::Insert },
    Mix { name: "F", text: "half reads, half reads with an update", reads: 50, rest: Rest::ReadThenUpdate },
];

impl Mix {
    /// Draws the operations of one thread on a store of `keys` keys.
    pub(crate) fn draw(&self, keys: usize, count: usize, seed: u64) -> Vec<Operation> {
        let mut random = fastrand::Rng::with_seed(seed);
        let zipf = Zipf::new(keys as u64);
        let mut inserted = 0;
        let mut draw = |version: usize| {
            let rank = zipf.draw(random.f64());
            let is_read = random.u64(..100) < self.reads;
            match self.rest {
                Rest::Insert if is_read => {
                    let newest = if inserted == 0 { None } else { Some(new_key(keys, seed, inserted - 1)) };
                    let latest = newest.filter(|_| rank < inserted);
                    Operation::Read(
                        latest.map_or(keys as u64 - 1 - rank.min(keys as u64 - 1), |newest| newest - rank),
                    )
                }
                Rest::Insert => {
                    inserted += 1;
                    Operation::Write(new_key(keys, seed, inserted - 1), 0)
                }
                _ if is_read => Operation::Read(scattered(rank, keys)),
                Rest::Update => Operation::Write(scattered(rank, keys), version),
                Rest::ReadThenUpdate => Operation::ReadThenWrite(scattered(rank, keys), version),
            }
        };
        (0..count).map(&mut draw).collect()
    }
}

/// One operation of the mix E, which scans.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ScanOperation {
    /// A range from the key of a number on, with so many keys at most.
    Range(u64, usize),
    Insert(u64),
}

/// Draws the operations of one thread in the mix E: 95 % ranges of up to 100 keys, 5 % new keys.
pub(crate) fn draw_scans(keys: usize, count: usize, seed: u64) -> Vec<ScanOperation> {
    let mut random = fastrand::Rng::with_seed(seed);
    let zipf = Zipf::new(keys as u64);
    let mut inserted = 0;
    let draw = |_| {
        let rank = zipf.draw(random.f64());
        if random.u64(..100) < 95 {
            return ScanOperation::Range(scattered(rank, keys), random.usize(1..=100));
        }
        inserted += 1;
        ScanOperation::Insert(new_key(keys, seed, inserted - 1))
    };
    (0..count).map(draw).collect()
}

/// Returns the number of the `nth` key that a thread inserts. No other thread has it.
fn new_key(keys: usize, seed: u64, nth: u64) -> u64 {
    keys as u64 + (seed << 32) + nth
}

/// Returns the key with this rank of popularity.
fn scattered(rank: u64, keys: usize) -> u64 {
    rank.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys as u64
}

/// Draws ranks: 0 is the most popular.
struct Zipf {
    count: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
}

impl Zipf {
    fn new(count: u64) -> Self {
        let term = |n: u64| (n as f64).powf(-EXPONENT);
        let zeta: f64 = (1..=count).map(term).sum();
        let count = count as f64;
        let eta = (1.0 - (2.0 / count).powf(1.0 - EXPONENT)) / (1.0 - (1.0 + term(2)) / zeta);
        Self { count, zeta, alpha: 1.0 / (1.0 - EXPONENT), eta }
    }

    /// Returns the rank for a number between 0 and 1.
    fn draw(&self, uniform: f64) -> u64 {
        let scaled = uniform * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(EXPONENT) {
            return 1;
        }
        // The result is below the number of keys.
        (self.count * (self.eta * uniform - self.eta + 1.0).powf(self.alpha)) as u64
    }
}
