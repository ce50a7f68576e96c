[.[] | select(.score > 1000) | {id, name, group, first: (.tags[0] // "none"),
   sum: (.nested.a | add), words: (.nested.text | split(" "))}]
| group_by(.group)
| map({group: .[0].group, count: length, sum: (map(.sum // 0) | add), names: (map(.name) | sort | unique | .[0:5]),
       words: (map(.words[]) | group_by(.) | map({key: .[0], value: length}) | from_entries | length)})
| sort_by(-.count)
