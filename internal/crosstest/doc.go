// Package crosstest holds the tests that need somebody else's code to say
// whether weir is right. It is a module of its own, never tagged, so that no
// user of weir ever meets these dependencies:
//
//   - RateLimit fields are read back by a parser of Structured Fields (RFC 9651)
//     that shares nothing with the code that writes them;
//   - the token bucket is compared with golang.org/x/time/rate;
//   - answers that break off, informational responses and uploads pass from the
//     proxy through chi, Gin and Echo;
//   - one table runs through net/http, chi, Gin and both versions of Echo, over
//     HTTP/1.1 and HTTP/2: what handlers do, what limits refuse and what the proxy
//     brings is the same to clients, records and loggers, with our adapters and
//     without (outcome_test.go, proxied_test.go);
//   - the tests of github.com/gorilla/websocket run through the proxy;
//   - short histories of several clients of one Redis server, with faults, are
//     checked for linearizability by github.com/anishathalye/porcupine;
//   - sequences of operations on all algorithms, and keys, are drawn and shrunk by
//     pgregory.net/rapid.
//
// There is nothing here to import.
package crosstest
