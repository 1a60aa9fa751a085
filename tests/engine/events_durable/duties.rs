//! The duties of the port, as every durable bus keeps them.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// Each claim for each bus; a server of PostgreSQL takes long to make, so there one test makes the
/// claims of one subject, each in a database of its own, and prints which.
macro_rules! for_each_bus {
    ($($subject:ident { $($claim:ident)* })*) => {
        mod on_a_file {
            $($(#[test] fn $claim() { super::$claim(&super::House::journal()); })*)*
        }
        mod in_postgres {
            $(#[test] fn $subject() {
                $(println!("{}", stringify!($claim));
                super::$claim(&super::House::postgres());)*
            })*
        }
    };
}

for_each_bus! {
    order {
        events_of_a_stream_come_in_order_and_whole
        a_stream_that_waits_holds_up_no_other
        members_of_a_group_in_two_processes_share_and_keep_the_order
        members_for_different_types_keep_the_order_of_a_stream
    }
    groups {
        an_event_that_is_published_while_nobody_is_there_waits_for_its_group
        every_group_and_every_subscription_without_one_is_told
        an_id_counts_once
        names_that_cannot_be_kept_are_refused
    }
    handling {
        an_event_that_fails_is_tried_again_then_parked_and_the_stream_goes_on
        a_redriven_event_comes_before_the_rest_of_its_stream
        an_answer_that_is_lost_or_late_is_a_failure
        no_more_are_out_than_wished
        publishing_never_waits_for_a_slow_subscriber
    }
    ends {
        unsubscribing_waits_for_what_is_out_and_leaves_the_rest_to_others
        what_was_not_handled_when_a_bus_closed_is_handed_over_by_the_next
        a_closed_bus_says_so
    }
}

fn events_of_a_stream_come_in_order_and_whole(house: &House) {
    let (one, other) = (house.process(), house.process());
    let (handler, heard) = listener();
    one.subscribe(subscription(Some("g"), handler));
    let sent: Vec<BusEvent> = (0..200).map(|number| event("s", number)).collect();
    other.publish_all(sent.clone());
    for event in sent {
        let delivery = heard.next();
        assert_eq!((&*delivery.event, delivery.attempt), (&event, 1));
    }
    assert!(heard.is_quiet());
}

fn a_stream_that_waits_holds_up_no_other(house: &House) {
    let process = house.process();
    let (handler, out) = holder();
    process.subscribe(subscription(Some("g"), handler));
    process.publish_all([event("slow", 0), event("slow", 1), event("quick", 0), event("quick", 1)]);
    let mut slow = None;
    let mut quick = Vec::new();
    while quick.len() < 2 {
        let (delivery, reply) = held(&out);
        match delivery.event.stream.as_str() {
            "slow" => slow = Some(reply),
            _ => {
                quick.push(delivery.event.id.clone());
                reply.send(Handled::Done);
            }
        }
    }
    assert_eq!(quick, ["quick/0", "quick/1"]);
    let reply = slow.unwrap_or_else(|| held(&out).1);
    assert!(out.recv_timeout(A_WHILE).is_err(), "the second waits for the first");
    reply.send(Handled::Done);
    let (delivery, reply) = held(&out);
    assert_eq!(delivery.event.id, "slow/1");
    reply.send(Handled::Done);
}

fn an_event_that_is_published_while_nobody_is_there_waits_for_its_group(house: &House) {
    let process = house.process();
    process.publish(event("s", 0)).unwrap();
    let (handler, heard) = listener();
    let id = process.subscribe(subscription(Some("g"), handler.clone()));
    assert!(process.unsubscribe(id));
    process.publish_all([event("s", 1), event("s", 2)]);
    assert!(heard.is_quiet());
    let late = house.process();
    late.subscribe(subscription(Some("g"), handler));
    assert_eq!(heard.ids(2), ["s/1", "s/2"], "from its first subscription on");
    let (handler, heard) = listener();
    late.subscribe(subscription(Some("new"), handler));
    late.publish(event("s", 3)).unwrap();
    assert_eq!(heard.ids(1), ["s/3"], "a new group begins now");
}

fn every_group_and_every_subscription_without_one_is_told(house: &House) {
    let (one, other) = (house.process(), house.process());
    let mut all = Vec::new();
    for (process, group) in [(&one, Some("a")), (&other, Some("b")), (&one, None), (&other, None)] {
        let (handler, heard) = listener();
        process.subscribe(subscription(group, handler));
        all.push(heard);
    }
    one.publish(event("s", 0)).unwrap();
    for heard in &all {
        assert_eq!(heard.ids(1), ["s/0"]);
    }
    for heard in &all {
        assert!(heard.is_quiet(), "each is told once");
    }
}

fn members_of_a_group_in_two_processes_share_and_keep_the_order(house: &House) {
    let (one, other) = (house.process(), house.process());
    let (sender, receiver) = channel();
    let counts: [Arc<AtomicUsize>; 2] = Default::default();
    for (process, count) in [&one, &other].into_iter().zip(&counts) {
        let (sender, count) = (Mutex::new(sender.clone()), count.clone());
        let (handler, _) = ruled(move |delivery| {
            count.fetch_add(1, Ordering::Relaxed);
            let _ = sender.lock().unwrap().send(delivery.event.id.clone());
            // Long enough for the other one to have its share.
            std::thread::sleep(Duration::from_millis(1));
            Handled::Done
        });
        process.subscribe(SubscribeAsk { in_flight_max: 2, ..subscription(Some("g"), handler) });
    }
    one.publish_all(
        (0..20).flat_map(|number| (0..10).map(move |stream| event(&format!("s{stream}"), number))),
    );
    let ids = (0..200).map(|_| receiver.recv_timeout(PATIENCE).expect("an event comes"));
    for (stream, numbers) in by_stream(ids) {
        assert_eq!(numbers, (0..20).collect::<Vec<_>>(), "{stream}");
    }
    assert!(receiver.recv_timeout(A_WHILE).is_err(), "each once");
    for count in &counts {
        assert!(count.load(Ordering::Relaxed) > 0, "both had a share");
    }
}

fn members_for_different_types_keep_the_order_of_a_stream(house: &House) {
    let (one, other) = (house.process(), house.process());
    let (sender, receiver) = channel();
    for (process, kind) in [(&one, "even"), (&other, "odd")] {
        let sender = Mutex::new(sender.clone());
        let (handler, _) = ruled(move |delivery| {
            let _ = sender.lock().unwrap().send(delivery.event.id.clone());
            Handled::Done
        });
        let kind = Some(kind.to_owned());
        process.subscribe(SubscribeAsk { kind, ..subscription(Some("g"), handler) });
    }
    let kinds = ["even", "odd", "nobody's"];
    one.publish_all((0..30).map(|number| event_of(kinds[number % 3], "s", number)));
    let ids: Vec<String> = (0..20).map(|_| receiver.recv_timeout(PATIENCE).unwrap()).collect();
    let wanted = (0..30).filter(|number| number % 3 < 2).collect::<Vec<usize>>();
    assert_eq!(by_stream(ids)["s"], wanted);
}

fn an_event_that_fails_is_tried_again_then_parked_and_the_stream_goes_on(house: &House) {
    let process = house.process();
    let (handler, heard) = ruled(|delivery| match delivery.event.id.as_str() {
        "s/1" => failed(&format!("no {}", delivery.attempt)),
        _ => Handled::Done,
    });
    process.subscribe(subscription(Some("g"), handler));
    process.publish_all((0..3).map(|number| event("s", number)));
    let tries: Vec<(String, u32)> =
        (0..5).map(|_| heard.next()).map(|found| (found.event.id.clone(), found.attempt)).collect();
    let wanted = [("s/0", 1), ("s/1", 1), ("s/1", 2), ("s/1", 3), ("s/2", 1)];
    assert_eq!(tries, wanted.map(|(id, attempt)| (id.to_owned(), attempt)));
    let parked = process.wait_for_parked();
    assert_eq!((parked.event, parked.group.as_str()), (event("s", 1), "g"));
    assert_eq!((parked.attempts, parked.message.as_str()), (3, "no 3"));
    assert!(!process.redrive("s/1", "other") && !process.redrive("s/0", "g"));
}

fn a_redriven_event_comes_before_the_rest_of_its_stream(house: &House) {
    let (one, other) = (house.process(), house.process());
    let is_mended = Arc::new(AtomicUsize::new(0));
    let mended = is_mended.clone();
    let (handler, heard) = ruled(move |delivery| {
        if mended.load(Ordering::SeqCst) == 0 { failed(&delivery.event.id) } else { Handled::Done }
    });
    let ask = SubscribeAsk { attempts_max: 1, ..subscription(Some("g"), handler) };
    let id = one.subscribe(ask.clone());
    one.publish(event("s", 0)).unwrap();
    one.wait_for_parked();
    assert_eq!(heard.ids(1), ["s/0"]);
    assert!(other.redrive("s/0", "g"), "by any process");
    assert_eq!(heard.ids(1), ["s/0"]);
    let parked = one.wait_for_parked();
    assert_eq!(parked.message, "s/0", "parked again");
    assert!(one.unsubscribe(id));
    one.publish(event("s", 1)).unwrap();
    is_mended.store(1, Ordering::SeqCst);
    assert!(one.redrive("s/0", "g") && !one.redrive("s/0", "g"));
    other.subscribe(ask);
    assert_eq!(heard.ids(2), ["s/0", "s/1"]);
    assert!(heard.is_quiet() && one.parked().is_empty());
}

fn an_answer_that_is_lost_or_late_is_a_failure(house: &House) {
    let process = house.process();
    let (handler, out) = holder();
    let timeout = Duration::from_millis(200);
    process.subscribe(SubscribeAsk { timeout, ..subscription(Some("g"), handler) });
    process.publish(event("s", 0)).unwrap();
    drop(held(&out));
    let (second, late) = held(&out);
    let (third, reply) = held(&out);
    assert_eq!((second.attempt, third.attempt), (2, 3));
    late.send(Handled::Done);
    reply.send(failed("the last"));
    assert_eq!(process.wait_for_parked().message, "the last");
}

fn an_id_counts_once(house: &House) {
    let (one, other) = (house.process(), house.process());
    let (handler, heard) = listener();
    one.subscribe(subscription(Some("g"), handler));
    one.publish_all([event("s", 0), event("s", 0), event("t", 0)]);
    other.publish(BusEvent { stream: "elsewhere".to_owned(), ..event("s", 0) }).unwrap();
    other.publish(event("s", 1)).unwrap();
    let mut ids = heard.ids(3);
    ids.sort();
    assert_eq!(ids, ["s/0", "s/1", "t/0"]);
    assert!(heard.is_quiet());
}

fn no_more_are_out_than_wished(house: &House) {
    let process = house.process();
    let (handler, out) = holder();
    process.subscribe(SubscribeAsk { in_flight_max: 3, ..subscription(Some("g"), handler) });
    process.publish_all((0..10).map(|stream| event(&format!("s{stream}"), 0)));
    let mut replies: Vec<Reply<Handled>> = (0..3).map(|_| held(&out).1).collect();
    for _ in 3..10 {
        assert!(out.recv_timeout(A_WHILE / 5).is_err());
        replies.pop().unwrap().send(Handled::Done);
        replies.push(held(&out).1);
    }
    for reply in replies {
        reply.send(Handled::Done);
    }
}

fn unsubscribing_waits_for_what_is_out_and_leaves_the_rest_to_others(house: &House) {
    let (one, other) = (house.process(), house.process());
    let (handler, out) = holder();
    let id = one.subscribe(subscription(Some("g"), handler));
    one.publish_all((0..3).map(|number| event("s", number)));
    let (_, reply) = held(&out);
    let (sender, answer) = channel();
    one.bus.unsubscribe(id, Reply::new(move |ended| sender.send(ended).unwrap()));
    assert!(answer.recv_timeout(A_WHILE).is_err(), "one is out");
    reply.send(Handled::Done);
    assert_eq!(answer.recv_timeout(PATIENCE).unwrap(), Ok(true));
    assert!(!one.unsubscribe(id));
    let (handler, heard) = listener();
    other.subscribe(subscription(Some("g"), handler));
    assert_eq!(heard.ids(2), ["s/1", "s/2"]);
    assert!(out.try_recv().is_err());
}

fn what_was_not_handled_when_a_bus_closed_is_handed_over_by_the_next(house: &House) {
    let one = house.process();
    let (handler, out) = holder();
    let timeout = Duration::from_millis(500);
    one.subscribe(SubscribeAsk { timeout, ..subscription(Some("g"), handler) });
    one.publish_all((0..3).map(|number| event("s", number)));
    let (delivery, _kept) = held(&out);
    assert_eq!(delivery.event.id, "s/0");
    one.bus.close();
    let (handler, heard) = listener();
    let next = house.process();
    next.subscribe(subscription(Some("g"), handler));
    assert_eq!(heard.ids(3), ["s/0", "s/1", "s/2"]);
}

fn a_closed_bus_says_so(house: &House) {
    let process = house.process();
    process.bus.close();
    assert_eq!(process.publish(event("s", 0)), Err(EventBusError::Closed));
    let (handler, _heard) = listener();
    let refused = asked(|reply| process.bus.subscribe(subscription(None, handler), reply));
    assert_eq!(refused, Err(EventBusError::Closed));
    assert_eq!(asked(|reply| process.bus.parked(1, reply)), Err(EventBusError::Closed));
}

fn names_that_cannot_be_kept_are_refused(house: &House) {
    let process = house.process();
    let long = "x".repeat(513);
    for (id, stream) in [("", "s"), ("i", ""), ("a\0b", "s"), (long.as_str(), "s")] {
        let (id, stream) = (id.to_owned(), stream.to_owned());
        let refused = process.publish(BusEvent { id, stream, ..event("s", 0) }).unwrap_err();
        assert!(matches!(refused, EventBusError::Refused { .. }), "{refused}");
    }
    let (handler, _heard) = listener();
    let ask = subscription(Some("(own) x"), handler);
    let refused = asked(|reply| process.bus.subscribe(ask, reply)).unwrap_err();
    assert!(refused.to_string().contains("(own)"), "{refused}");
    let longest = "\u{1f600}".repeat(512);
    process.publish(BusEvent { id: longest.clone(), stream: longest, ..event("s", 0) }).unwrap();
}

fn publishing_never_waits_for_a_slow_subscriber(house: &House) {
    let process = house.process();
    let (handler, out) = holder();
    process.subscribe(subscription(Some("g"), handler));
    process.publish_all((0..2_000).map(|number| event("s", number)));
    let (delivery, reply) = held(&out);
    assert_eq!(delivery.event.id, "s/0");
    reply.send(Handled::Done);
}
