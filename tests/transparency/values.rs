//! Keys, values and packets of every size: nothing that Ringway passes on is changed, however the
//! bytes are cut.

use std::sync::OnceLock;

use crate::support::{Client, Guard, Proxy, Random, Redis, Value, request};

fn proxy() -> Guard {
    static SHARED: OnceLock<(Vec<Redis>, Proxy)> = OnceLock::new();
    Proxy::shared(&SHARED, 3)
}

fn words(args: &[&[u8]]) -> Vec<Vec<u8>> {
    args.iter().map(|arg| arg.to_vec()).collect()
}

/// Everything that may be a key or a value, from nothing to 256 KiB.
fn blobs() -> Vec<Vec<u8>> {
    let mut random = Random::new(1);
    let mut all =
        words(&[b"", b"\0", b"\r\n", b"a\r\n$3\r\nb", b"*1\r\n$4\r\nPING\r\n", b"{", b"{}", b"}{", b"{t}", b"a{}b{c}"]);
    all.push((0..=255).collect());
    for size in [511, 512, 513, 4_095, 4_096, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 262_144] {
        all.push(random.bytes(size));
        all.push([b"{tag}".to_vec(), vec![b'x'; size - 5]].concat());
        // The tag's end lies far behind its beginning.
        all.push([vec![b'y'; size / 2], b"{".to_vec(), vec![b'z'; size - size / 2 - 2], b"}".to_vec()].concat());
    }
    all
}

#[test]
fn any_bytes_may_be_a_key_or_a_value() {
    let proxy = proxy();
    for mut client in [proxy.client(), proxy.client().resp3()] {
        for blob in blobs() {
            let key = [b"blob:", &blob[..]].concat();
            for key in [&blob, &key] {
                assert_eq!(client.call(&[b"SET", &key[..], &blob]), Value::ok());
                assert_eq!(client.call(&[b"GET", &key[..]]), Value::bulk(&blob));
                assert_eq!(client.call(&[b"EXISTS", &key[..], &key[..]]), Value::Int(2));
                assert_eq!(client.call(&[b"MGET", &key[..]]), Value::Array(vec![Value::bulk(&blob)]));
                assert_eq!(client.call(&[b"DEL", &key[..]]), Value::Int(1));
            }
        }
        let all = blobs();
        let pairs = all.iter().flat_map(|blob| [blob.clone(), blob.clone()]);
        let mset = [b"MSET".to_vec()].into_iter().chain(pairs).collect::<Vec<_>>();
        assert_eq!(client.call(&mset), Value::ok());
        let mget = [b"MGET".to_vec()].into_iter().chain(all.clone()).collect::<Vec<_>>();
        assert_eq!(client.call(&mget), Value::Array(all.iter().map(Value::bulk).collect()));
        let del = [b"DEL".to_vec()].into_iter().chain(all.clone()).collect::<Vec<_>>();
        assert_eq!(client.call(&del), Value::Int(all.len() as i64));
    }
}

/// Keys that begin in one read of the proxy and end in another, at every kind of boundary.
#[test]
fn keys_that_straddle_read_boundaries_arrive_whole() {
    let proxy = proxy();
    let mut client = proxy.client();
    let mut random = Random::of_this_run("keys_that_straddle_read_boundaries_arrive_whole");
    for round in 0..40 {
        let size = *random.pick(&[1, 90, 512, 600, 5_000, 65_536]);
        let key = [format!("straddle:{round}:").into_bytes(), random.bytes(size)].concat();
        let mut requests = Vec::new();
        let mut wanted = Vec::new();
        for at in 0..random.between(1, 60) {
            let odd = random.between(0, 1_500);
            let odd = random.bytes(odd);
            requests.push(words(&[b"ECHO", &odd]));
            wanted.push(Value::bulk(&odd));
            if at % 9 == 0 {
                requests.push(words(&[b"SET", &key, &odd]));
                requests.push(words(&[b"GET", &key]));
                wanted.extend([Value::ok(), Value::bulk(&odd)]);
            }
        }
        let got = client.pipeline(&requests);
        assert!(got == wanted, "round {round}, key of {size} bytes");
        // Read back alone, over another connection.
        let alone = proxy.client().call(&[b"EXISTS", &key[..]]);
        assert_eq!(alone, Value::Int(1), "round {round}, key of {size} bytes");
    }
}

#[test]
fn values_of_64_mib_pass_both_ways() {
    let proxy = proxy();
    let value = Random::new(7).bytes(64 << 20);
    let mut client = proxy.client();
    let before_and_after =
        [words(&[b"PING"]), words(&[b"SET", b"huge", &value]), words(&[b"PING"]), words(&[b"STRLEN", b"huge"])];
    let pong = Value::Simple(b"PONG".to_vec());
    let length = Value::Int(value.len() as i64);
    assert_eq!(client.pipeline(&before_and_after), [pong.clone(), Value::ok(), pong.clone(), length]);
    let got = client.pipeline(&[words(&[b"GET", b"huge"]), words(&[b"PING"])]);
    assert!(got == [Value::bulk(&value), pong], "the value came back changed");
    assert_eq!(client.call(&["DEL", "huge"]), Value::Int(1));
}

#[test]
fn a_pipeline_of_10_000_commands_is_answered_in_order() {
    let proxy = proxy();
    for mut client in [proxy.client(), proxy.client().resp3()] {
        let key = |at: usize| format!("many:{at}").into_bytes();
        let requests = (0..5_000).flat_map(|at| [words(&[b"SET", &key(at), &key(at)]), words(&[b"GET", &key(at)])]);
        let replies = client.pipeline(&requests.collect::<Vec<_>>());
        for (at, two) in replies.chunks(2).enumerate() {
            assert_eq!(two, [Value::ok(), Value::bulk(key(at))], "pair {at}");
        }
    }
}

#[test]
fn an_mget_of_1_000_keys_is_in_the_order_of_the_keys() {
    let proxy = proxy();
    let mut client = proxy.client();
    let keys = (0..1_000).map(|at| format!("mget:{at}")).collect::<Vec<_>>();
    let mset = ["MSET".to_owned()].into_iter().chain(keys.iter().flat_map(|key| [key.clone(), format!("v{key}")]));
    assert_eq!(client.call(&mset.collect::<Vec<_>>()), Value::ok());
    assert_eq!(client.call(&["DEL", "mget:500"]), Value::Int(1));
    let mget = ["MGET".to_owned()].into_iter().chain(keys.iter().cloned()).collect::<Vec<_>>();
    let wanted = |key: &String| if key == "mget:500" { Value::NullBulk } else { Value::bulk(format!("v{key}")) };
    assert_eq!(client.call(&mget), Value::Array(keys.iter().map(wanted).collect()));
    let exists = ["EXISTS".to_owned()].into_iter().chain(keys.iter().cloned()).collect::<Vec<_>>();
    assert_eq!(client.call(&exists), Value::Int(999));
}

#[test]
fn one_byte_per_packet_is_enough() {
    let plain = Redis::start();
    let proxy = proxy();
    let requests = [
        request(&["SET", "drip", "a\r\nb"]),
        request(&["GET", "drip"]),
        b"GET drip\r\n".to_vec(),
        request(&["MSET", "drip:1", "x", "drip:2", "y", "drip:3", ""]),
        request(&["MGET", "drip:1", "drip:2", "drip:3", "none"]),
        request(&["LPUSH", "drip", "x"]),
        request(&["BOGUS", "drip"]),
        request(&["DEL", "drip", "drip:1", "drip:2", "drip:3"]),
    ];
    let drip = |mut client: Client| {
        let mut replies = Vec::new();
        for request in &requests {
            for byte in request {
                client.send_raw(&[*byte]);
            }
            replies.push(client.reply_raw().escape_ascii().to_string());
        }
        replies
    };
    assert_eq!(drip(proxy.client()), drip(plain.client()));
    assert_eq!(drip(proxy.client().resp3()), drip(plain.client().resp3()));
}
