#!/usr/bin/env perl
# A web server that needs only perl, which is part of every Debian and Ubuntu. It uses one process per connection, logs
# one line per request, and shuts down gracefully on SIGTERM. It is not an example of how to write a server.
use strict;
use warnings;
use IO::Socket::INET;
use POSIX ();

my $host = $ENV{HOST} || '0.0.0.0';
my $port = $ENV{PORT} || 8080;
my $name = $ENV{NAME} || 'world';
my $branch = $ENV{BRANCH} || 'no branch';
$| = 1;

my $listener = IO::Socket::INET->new(LocalAddr => $host, LocalPort => $port, Listen => 128, ReuseAddr => 1)
    or die "hello: cannot listen on $host:$port: $!\n";

# A POSIX handler runs immediately. Perl's own handlers run only after `accept` returns, that is at the next request.
my $stop = POSIX::SigAction->new(sub {
    close $listener;
    print "hello: stopping\n";
    1 while wait() > 0;
    POSIX::_exit(0);
});
POSIX::sigaction($_, $stop) for POSIX::SIGTERM, POSIX::SIGINT;
$SIG{CHLD} = 'IGNORE';
print "hello: listening on $host:$port\n";

while (1) {
    my $client = $listener->accept or next;
    my $child = fork;
    if (!defined $child) { warn "hello: fork: $!\n"; next }
    if ($child == 0) { close $listener; answer($client); POSIX::_exit(0) }
    close $client;
}

sub answer {
    my ($client) = @_;
    # Finish the current request on SIGTERM, but end after five seconds if the client sends nothing.
    $SIG{TERM} = $SIG{INT} = 'IGNORE';
    $SIG{ALRM} = 'DEFAULT';
    alarm 5;
    my ($method, $path) = (<$client> // '') =~ m{^(\S+) (\S+) HTTP/1} or return;
    while (defined(my $line = <$client>)) { last if $line =~ /^\r?\n$/ }
    my ($status, $body) = respond($path);
    my $length = length $body;
    print {$client} "HTTP/1.1 $status\r\nContent-Type: text/plain; charset=utf-8\r\n",
        "Content-Length: $length\r\nConnection: close\r\n\r\n", $method eq 'HEAD' ? '' : $body;
    close $client;
    print "$method $path $status\n" unless $path eq '/healthz';
}

sub respond {
    my ($path) = @_;
    return ('200 OK', "Hello, $name! This is branch $branch.\n") if $path =~ m{^/(\?|$)};
    return ('200 OK', "ok\n") if $path eq '/healthz';
    return ('404 Not Found', "not found: $path\n");
}
