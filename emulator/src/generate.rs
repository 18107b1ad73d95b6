//! Believable indicators from a seed, with what real feeds have: copies in several owners, unset ratings, awkward values.
//! And indicators from a CSV file.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;
use jiff::{Timestamp, ToSpan};

use crate::faults::next;
use crate::indicator::{Indicator, Quirks};

const OWNERS: [&str; 4] = ["Acme Org", "Acme Source", "Shared \"Red\" Feed", "Intel Community"];
const TAGS: [&str; 8] = ["APT29", "Ransomware", "Phishing", "C2", "Emotet", "apt29", "Botnet", "Loader"];
const LABELS: [&str; 6] = ["TLP:GREEN", "TLP:AMBER", "TLP:AMBER+STRICT", "TLP:RED", "TLP:CLEAR", "Internal Only"];
const PHASES: [&str; 8] = [
    "Reconnaissance",
    "Weaponization",
    "Delivery",
    "Exploitation",
    "Installation",
    "C2",
    "Actions on Objectives",
    "Something else",
];
const WORDS: [&str; 12] =
    ["login", "secure", "update", "cdn", "mail", "invoice", "portal", "files", "static", "auth", "pay", "docs"];

/// `count` indicators; the same for the same seed and time.
pub fn generate(seed: u64, count: usize, now: Timestamp) -> impl Iterator<Item = Indicator> {
    let mut dice = Dice(seed);
    let mut recent: Vec<Indicator> = Vec::new();
    (0..count).map(move |_| {
        // One in twenty is another owner's copy of a value seen lately.
        if !recent.is_empty() && dice.one_in(20) {
            let original = recent[dice.below(recent.len())].clone();
            let other = OWNERS.iter().find(|owner| **owner != original.owner).copied().unwrap_or(OWNERS[0]);
            return context(&mut dice, Indicator { owner: other.to_owned(), ..original }, now);
        }
        let made = value(&mut dice, now);
        let made = context(&mut dice, made, now);
        if recent.len() < 64 {
            recent.push(made.clone());
        } else {
            let at = dice.below(64);
            recent[at] = made.clone();
        }
        made
    })
}

struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        next(&mut self.0)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.roll() % n as u64).unwrap_or(0)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.roll().is_multiple_of(n)
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    fn hex(&mut self, digits: usize) -> String {
        let mut text = String::with_capacity(digits + 16);
        while text.len() < digits {
            let _ = write!(text, "{:016X}", self.roll());
        }
        text.truncate(digits);
        text
    }
}

fn value(dice: &mut Dice, now: Timestamp) -> Indicator {
    let owner = dice.pick(&OWNERS);
    let plain = |type_name: &str, value: String| Indicator::new(owner, type_name, &value, now);
    match dice.below(100) {
        0..=24 => plain("Address", ipv4(dice)),
        25..=27 => plain("Address", ipv6(dice)),
        28..=52 => plain("Host", host(dice)),
        53..=74 => {
            let url = url(dice);
            plain("URL", url)
        }
        75..=87 => file(dice, owner, now),
        88..=90 => plain("EmailAddress", format!("{}{}@{}", dice.pick(&WORDS), dice.below(10_000), host(dice))),
        91 => {
            let subject = subject(dice);
            plain("Email Subject", subject)
        }
        92..=94 => plain("CIDR", format!("{}.{}.{}.0/24", 1 + dice.below(222), dice.below(256), dice.below(256))),
        95 => plain("CIDR", format!("2001:{:x}:{:x}:0:0:0:0:0/48", dice.below(65_536), dice.below(65_536))),
        96 => {
            plain("User Agent", format!("Mozilla/4.0 (compatible; EvilBot \"{}.0\"; \\x{})", dice.below(90), dice.below(1_000)))
        }
        97 => plain("ASN", format!("ASN{}", 64_496 + dice.below(1_000))),
        98 => plain("Mutex", format!("Global\\Evil{}", dice.below(100_000))),
        _ => plain("Hashtag", format!("#evil{}", dice.below(100_000))),
    }
}

fn ipv4(dice: &mut Dice) -> String {
    if dice.one_in(200) {
        return format!("10.{}.{}.{}", dice.below(256), dice.below(256), dice.below(256));
    }
    format!("{}.{}.{}.{}", 11 + dice.below(88), dice.below(256), dice.below(256), 1 + dice.below(254))
}

fn ipv6(dice: &mut Dice) -> String {
    let (a, b) = (dice.below(65_536), dice.below(65_536));
    if dice.one_in(2) {
        format!("2001:0db8:0000:0000:0000:0000:{a:04X}:{b:04X}")
    } else {
        format!("2001:db8:0:0:0:0:{a:x}:{b:x}")
    }
}

fn host(dice: &mut Dice) -> String {
    let number = dice.below(10_000_000);
    match dice.below(40) {
        0 => format!("xn--bcher-kva{number}.example"),
        1 => format!("{}_{number}.example.", dice.pick(&WORDS)),
        2 => format!("{}-{number}.EXAMPLE.net", dice.pick(&WORDS).to_uppercase()),
        _ => format!("{}-{number}.{}.example", dice.pick(&WORDS), dice.pick(&WORDS)),
    }
}

fn url(dice: &mut Dice) -> String {
    let host = host(dice);
    let tail = match dice.below(8) {
        0 => "?id=7&x=%20'quoted'".to_owned(),
        1 => "/a\"b/c|d".to_owned(),
        2 => format!("/{}", "long/".repeat(dice.below(60))),
        3 => "/ünïcödé?q=ä#Fragment".to_owned(),
        _ => format!("/{}/{}.php", dice.pick(&WORDS), dice.below(1_000_000)),
    };
    format!("http{}://{host}{tail}", if dice.one_in(2) { "s" } else { "" })
}

fn subject(dice: &mut Dice) -> String {
    let number = dice.below(1_000_000);
    match dice.below(4) {
        0 => format!("Ihre Rechnung – Konto {number} gesperrt"),
        1 => format!("RE: \"Urgent\" it's {number} \\ now"),
        2 => format!("請求書 {number} 📄"),
        _ => format!("Invoice {number}"),
    }
}

fn file(dice: &mut Dice, owner: &str, now: Timestamp) -> Indicator {
    let mut file = Indicator::new(owner, "File", &dice.hex(64), now);
    file.quirks.size_as_text = dice.one_in(10);
    match dice.below(10) {
        0 => {
            file.sha256 = None;
            file.md5 = Some(dice.hex(32));
        }
        1..=4 => {
            file.md5 = Some(dice.hex(32));
            file.sha1 = Some(dice.hex(40));
        }
        5 => file.sha256 = file.sha256.map(|hash| hash.to_lowercase()),
        _ => {}
    }
    file
}

fn context(dice: &mut Dice, mut indicator: Indicator, now: Timestamp) -> Indicator {
    let ago = |minutes: u64| now.checked_sub(i64::try_from(minutes).unwrap_or(0).minutes()).unwrap_or(now);
    indicator.id = 0;
    indicator.date_added = ago(1_000 + dice.roll() % 500_000);
    indicator.last_modified = ago(dice.roll() % 1_000);
    indicator.rating = (!dice.one_in(8)).then(|| [0.0, 1.0, 2.0, 3.0, 3.5, 4.0, 5.0][dice.below(7)]);
    indicator.confidence = (!dice.one_in(8)).then(|| u8::try_from(dice.below(101)).unwrap_or(0));
    indicator.score = (!dice.one_in(10)).then(|| u16::try_from(dice.below(1_001)).unwrap_or(0));
    indicator.false_positives = (!dice.one_in(4)).then(|| dice.roll() % 3);
    indicator.tags = (0..dice.below(4)).map(|_| dice.pick(&TAGS).to_owned()).collect();
    indicator.labels = (0..dice.below(3)).map(|_| dice.pick(&LABELS).to_owned()).collect();
    indicator.attributes = Vec::new();
    if dice.one_in(3) {
        indicator.attributes.push(("Phase of Intrusion".to_owned(), dice.pick(&PHASES).to_owned()));
    }
    if dice.one_in(6) {
        indicator.attributes.push(("Phase of Intrusion".to_owned(), dice.pick(&PHASES).to_owned()));
        indicator.attributes.push(("Last Seen".to_owned(), dice.pick(&["2023-12-05T06:47:57Z", "mid November"]).to_owned()));
    }
    if dice.one_in(10) {
        let text = dice.pick(&["TCP/443", "8080/udp", "HTTP over a non-standard port; see report."]);
        indicator.attributes.push(("Network Protocol Analysis".to_owned(), text.to_owned()));
    }
    indicator.last_seen = dice.one_in(5).then(|| ago(dice.roll() % 10_000));
    indicator.quirks = Quirks { count_zero: dice.one_in(30), trailing_blank: dice.one_in(100), ..indicator.quirks };
    indicator
}

/// Indicators of a CSV file with the columns `type,value,md5,sha1,sha256,tags,description,source,first_seen`.
///
/// # Errors
/// The file cannot be read, or a row has no type; the line is named.
pub fn load_csv(path: &Path, now: Timestamp) -> anyhow::Result<Vec<Indicator>> {
    let mut reader = csv::Reader::from_path(path).with_context(|| format!("failed to open {}", path.display()))?;
    let mut dice = Dice(7);
    let mut indicators = Vec::new();
    for (i, row) in reader.records().enumerate() {
        let row = row.with_context(|| format!("line {} of {}", i + 2, path.display()))?;
        let cell = |n: usize| row.get(n).unwrap_or_default();
        anyhow::ensure!(!cell(0).is_empty(), "line {} of {} has no type", i + 2, path.display());
        let mut indicator = context(&mut dice, Indicator::new(OWNERS[i % 2], cell(0), cell(1), now), now);
        if cell(0) == "File" {
            let hash = |n: usize| Some(cell(n).to_owned()).filter(|hash| !hash.is_empty());
            (indicator.md5, indicator.sha1, indicator.sha256) = (hash(2), hash(3), hash(4));
        }
        indicator.tags = cell(5).split('|').filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
        if !cell(6).is_empty() {
            indicator.attributes.push(("Description".to_owned(), cell(6).to_owned()));
        }
        if let Some(seen) = first_seen(cell(8)) {
            indicator.date_added = seen;
        }
        indicators.push(indicator);
    }
    Ok(indicators)
}

fn first_seen(text: &str) -> Option<Timestamp> {
    text.parse().ok().or_else(|| format!("{text}T00:00:00Z").parse().ok())
}
