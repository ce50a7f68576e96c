# The perl workload: hashes of arrays, matches, joins, sorting over the text in the file named first.
use strict;
use warnings;

my (%words, %groups);
while (my $line = <>) {
    chomp $line;
    my ($id, $group, $weight, $text) = split /\t/, $line;
    push @{ $groups{$group} }, { id => $id, weight => $weight, text => $text };
    $words{$_}++ for split / /, $text;
    (my $turned = $text) =~ s/(\w+) (\w+)/$2 $1/g;
    $words{ length $turned }++;
}
for my $group (sort { $a <=> $b } keys %groups) {
    my @sorted = sort { $a->{weight} <=> $b->{weight} || $a->{id} <=> $b->{id} } @{ $groups{$group} };
    my $joined = join '|', map { uc substr $_->{text}, 0, 12 } @sorted;
    printf "%s %d %s\n", $group, length $joined, substr $joined, 0, 60;
}
my @top = (sort { $words{$b} <=> $words{$a} || $a cmp $b } keys %words)[0 .. 99];
print "$_ $words{$_}\n" for @top;
