mod support;
#[test]
fn smoke(){
  let mut r = support::Redis::start();
  let mut c = r.client();
  assert_eq!(c.call(&["SET","k","v"]), support::Value::ok());
  let f = support::Fake::before(&r, |_| support::Answer::Pass);
  let mut d = support::Client::connect(f.address());
  assert_eq!(d.call(&["GET","k"]), support::Value::bulk("v"));
  println!("{:?}", c.resp3().call(&["CONFIG","GET","max*"]));
  r.pause(); r.resume();
  r.restart();
  assert!(r.client().call(&["GET","k"]).is_null());
  r.stop();
}
