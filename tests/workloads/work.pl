use strict; use warnings;
my (%count, @list);
for my $i (1 .. 60000) { my $k = substr($i * 7919 % 100003, 0, 3); $count{$k} .= "x$i"; push @list, $k x 3; }
my @sorted = sort { $a cmp $b } @list;
my $text = join ",", @sorted;
$text =~ s/(\d)(\d)/$2$1/g;
printf "%d %d %s\n", length $text, scalar(keys %count), unpack("%32C*", $text);
print join(" ", map { "$_:" . length $count{$_} } (sort keys %count)[0 .. 20]), "\n";
exit 4;
