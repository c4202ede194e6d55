//! Other workers: asked, answered, stuck, full.

use super::*;

/// Worker 1 of three.
fn rig() -> Rig {
    let mut options = options(1);
    (options.worker, options.facts.threads) = (1, 3);
    Rig::with(1, options)
}

/// The numbers of the questions that were sent, to workers 0 and 2.
fn numbers(rig: &mut Rig) -> [u64; 2] {
    let sent: Vec<(u16, Message)> = std::mem::take(&mut rig.letters);
    let number = |(to, message): &(u16, Message), wanted: u16| match message {
        Message::Ask { from: 1, number, .. } if *to == wanted => *number,
        other => panic!("{other:?} to {to}"),
    };
    assert_eq!(sent.len(), 2);
    [number(&sent[0], 0), number(&sent[1], 2)]
}

fn answer(rig: &mut Rig, number: u64, reply: &[u8]) {
    rig.engine.message(Message::Answer { number, reply: reply.to_vec() });
}

#[test]
fn a_worker_that_is_stuck_is_not_waited_for() {
    let mut rig = rig();
    let client = rig.client();
    rig.send(client, "CLIENT UNPAUSE");
    let [first, second] = numbers(&mut rig);
    answer(&mut rig, first, b"+OK\r\n");
    rig.send(client, "PING");
    rig.engine.set_now(4_999_999);
    rig.engine.tick();
    assert_eq!(rig.got(client), "");
    rig.engine.set_now(5_000_000);
    rig.engine.tick();
    let silent = "-ERR another worker of the proxy did not answer within 5000 ms; among its clients the command may \
                  have been executed\r\n";
    assert_eq!(rig.got(client), format!("{silent}+PONG\r\n"));
    // What comes too late is nobody's.
    answer(&mut rig, second, b"+OK\r\n");
    assert_eq!(rig.got(client), "");
}

#[test]
fn a_worker_that_takes_no_more_is_an_error_at_once() {
    let mut rig = rig();
    let client = rig.client();
    rig.send(client, "CLIENT KILL ID 77");
    let (_, message) = rig.letters.pop().unwrap();
    rig.engine.undelivered(0, &message);
    let (_, message) = rig.letters.pop().unwrap();
    let Message::Ask { number, .. } = message else { panic!("{message:?}") };
    answer(&mut rig, number, b":1\r\n");
    assert!(rig.got(client).starts_with("-ERR another worker of the proxy takes no more messages; "));
}

#[test]
fn answers_are_for_the_client_that_asked() {
    let mut rig = rig();
    let client = rig.client();
    rig.send(client, "CLIENT KILL ID 77");
    let [first, second] = numbers(&mut rig);
    rig.engine.client_gone(client);
    let next = rig.client();
    assert_eq!(next, client);
    rig.send(next, "CLIENT KILL ID 78");
    let [third, fourth] = numbers(&mut rig);
    answer(&mut rig, first, b":1\r\n");
    answer(&mut rig, second, b":1\r\n");
    assert_eq!(rig.got(next), "");
    answer(&mut rig, third, b":0\r\n");
    answer(&mut rig, fourth, b":1\r\n");
    assert_eq!(rig.got(next), ":1\r\n");
}

#[test]
fn what_another_worker_asks_is_answered() {
    let mut rig = rig();
    let client = rig.client();
    let ask = |rig: &mut Rig, line: &str| {
        let mut frame = Vec::new();
        request(&mut frame, &line.split(' ').collect::<Vec<_>>());
        rig.engine.message(Message::Ask { from: 2, number: 9, frame });
        rig.settle();
        match rig.letters.pop() {
            Some((2, Message::Answer { number: 9, reply })) => Some(String::from_utf8(reply).unwrap()),
            None => None,
            other => panic!("{other:?}"),
        }
    };
    assert!(ask(&mut rig, "CLIENT LIST").unwrap().starts_with("*2\r\n:1\r\n$"));
    assert_eq!(ask(&mut rig, "CLIENT LIST ID 5").as_deref(), Some("*0\r\n"));
    assert_eq!(ask(&mut rig, "CLIENT PAUSE x").as_deref(), Some("-ERR timeout is not an integer or out of range\r\n"));
    assert_eq!(ask(&mut rig, "SCRIPT FLUSH").as_deref(), Some("+OK\r\n"));
    assert_eq!(ask(&mut rig, "CLIENT UNBLOCK 1").as_deref(), Some(":0\r\n"));
    // The server decides about one that waits there, and its word is passed on.
    rig.send(client, "BLPOP k 0");
    assert_eq!(ask(&mut rig, "CLIENT UNBLOCK 1"), None);
    assert_eq!(rig.asked(0), ["BLPOP k 0", "CLIENT UNBLOCK 0 TIMEOUT"]);
    rig.tell(0, "*-1\r\n");
    rig.tell(0, ":1\r\n");
    assert_eq!(rig.letters.pop(), Some((2, Message::Answer { number: 9, reply: b":1\r\n".to_vec() })));
    assert_eq!(ask(&mut rig, "CLIENT KILL ID 1").as_deref(), Some(":1\r\n"));
}
