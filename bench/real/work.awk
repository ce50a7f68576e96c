# The gawk workload: associative arrays, fields, substitution, sorting over the text in the file named first.
BEGIN { FS = "\t" }
{
    count = split($4, word, " ")
    for (i = 1; i <= count; i++) seen[word[i]]++
    for (i = 1; i < count; i++) pair[word[i], word[i + 1]] = pair[word[i], word[i + 1]] $1 " "
    text = $4
    gsub(/[aeiou]+/, "<&>", text)
    group[$2] = group[$2] substr(text, 1, 30) ";"
    weight[$2] += $3
}
END {
    for (key in pair) { length_sum += length(pair[key]); if (length(pair[key]) > longest) longest = length(pair[key]) }
    print length_sum, longest
    PROCINFO["sorted_in"] = "@ind_num_asc"
    for (key in group) printf "%s %.3f %d %s\n", key, weight[key], length(group[key]), substr(group[key], 1, 50)
    PROCINFO["sorted_in"] = "@val_num_desc"
    for (key in seen) if (shown++ < 100) total += seen[key] * shown
    print total
}
