/* The synthetic workloads that run in one thread. Nothing is shared between workloads; each frees what it allocated. */
#include "bench/bench.h"
#include "bench/synth.h"

/* ---- slots: blocks with a pattern, replaced at random ------------------------------------------------------------ */

typedef struct slot {
    void *block;
    uint32_t size;
    uint64_t key;
} slot_t;

static uint64_t slot_clear(slot_t *slot) {
    uint64_t key = slot->block ? slot->key : 0;
    if (slot->block) block_delete(slot->block, slot->size, slot->key);
    slot->block = NULL;
    return key;
}

static void slot_fill(slot_t *slot, uint32_t size, uint64_t key) {
    slot->block = block_new(size, key);
    slot->size = size;
    slot->key = key;
}

static uint64_t slots_clear(slot_t *slots, size_t count) {
    uint64_t digest = 0;
    for (size_t i = 0; i < count; i++) digest += slot_clear(&slots[i]);
    free(slots);
    return digest;
}

static slot_t *slots_new(size_t count) {
    return must(calloc(count, sizeof(slot_t)));
}

/* ---- strings with a length, the smallest thing that allocates --------------------------------------------------- */

static char *string_random(uint64_t *state, uint32_t shortest, uint32_t longest) {
    uint32_t length = shortest + random_below(state, longest - shortest + 1);
    char *s = must_malloc(length + 1);
    for (uint32_t i = 0; i < length; i++) s[i] = (char)('a' + random_below(state, 26));
    s[length] = 0;
    return s;
}

static uint64_t string_hash(const char *s) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *s; s++) hash = (hash ^ (unsigned char)*s) * 0x100000001b3u;
    return hash;
}

/* ---- sessions ---------------------------------------------------------------------------------------------------- */

typedef struct header {
    struct header *next;
    char *name, *value;
} header_t;

typedef struct session {
    uint64_t key;
    char *buffer;
    uint32_t size, requests_left;
    header_t *headers;
} session_t;

static session_t *session_open(uint64_t *state) {
    session_t *session = must(calloc(1, sizeof *session));
    session->key = random_next(state);
    /* Lifetimes: most sessions serve a handful of requests, a few serve thousands. */
    session->requests_left = 1 + (random_below(state, 16) ? random_below(state, 20) : random_below(state, 2000));
    session->size = 128;
    session->buffer = block_new(session->size, session->key);
    return session;
}

static uint64_t headers_drop(header_t *header) {
    uint64_t digest = 0;
    while (header) {
        header_t *next = header->next;
        digest += string_hash(header->name) ^ string_hash(header->value);
        free(header->name);
        free(header->value);
        free(header);
        header = next;
    }
    return digest;
}

static uint64_t session_close(session_t *session) {
    uint64_t digest = headers_drop(session->headers) + session->key;
    block_delete(session->buffer, session->size, session->key);
    free(session);
    return digest;
}

/* A request: new headers, a larger read buffer from time to time, a response that lives for the request. */
static uint64_t session_serve(session_t *session, uint64_t *state) {
    uint64_t digest = headers_drop(session->headers);
    session->headers = NULL;
    for (uint32_t i = 2 + random_below(state, 5); i-- > 0;) {
        header_t *header = must_malloc(sizeof *header);
        *header = (header_t){session->headers, string_random(state, 4, 20), string_random(state, 4, 60)};
        session->headers = header;
    }
    if (session->size < 16384 && random_below(state, 8) == 0) {
        session->buffer = must(realloc(session->buffer, session->size * 2));
        block_check(session->buffer, sizeof session->key, session->key);
        session->size *= 2;
        block_fill(session->buffer, session->size, session->key);
    }
    uint32_t response = 200 + random_below(state, 3000);
    block_delete(block_new(response, session->key), response, session->key);
    session->requests_left--;
    return digest;
}

uint64_t synth_sessions(double scale) {
    enum { SESSIONS = 4000 };
    uint64_t state = 11, digest = 0;
    session_t **sessions = must(calloc(SESSIONS, sizeof *sessions));
    for (long step = (long)(1.3e6 * scale); step-- > 0;) {
        session_t **session = &sessions[random_below(&state, SESSIONS)];
        if (!*session) *session = session_open(&state);
        digest += session_serve(*session, &state);
        if ((*session)->requests_left > 0) continue;
        digest += session_close(*session);
        *session = NULL;
    }
    for (int i = 0; i < SESSIONS; i++)
        if (sessions[i]) digest += session_close(sessions[i]);
    free(sessions);
    return digest;
}

/* ---- trees --------------------------------------------------------------------------------------------------------
 */

typedef struct node {
    struct node *child[2];
    uint64_t key;
    char *label;
} node_t;

static void tree_insert(node_t **root, uint64_t key, char *label) {
    while (*root) root = &(*root)->child[key > (*root)->key];
    *root = must_malloc(sizeof **root);
    **root = (node_t){{NULL, NULL}, key, label};
}

static uint64_t tree_sum(const node_t *node) {
    if (!node) return 0;
    uint64_t label = node->label ? string_hash(node->label) : 0;
    return node->key + label + tree_sum(node->child[0]) + tree_sum(node->child[1]);
}

static void tree_drop(node_t *node) {
    if (!node) return;
    tree_drop(node->child[0]);
    tree_drop(node->child[1]);
    free(node->label);
    free(node);
}

uint64_t synth_tree_drop(double scale) {
    uint64_t state = 12, digest = 0;
    for (int round = 0; round < 8; round++) {
        node_t *root = NULL;
        for (long i = (long)(160000 * scale); i-- > 0;)
            tree_insert(&root, random_next(&state), string_random(&state, 4, 40));
        digest += tree_sum(root);
        tree_drop(root);
    }
    return digest;
}

uint64_t synth_tree_read(double scale) {
    enum { BRIEF = 64 };
    const long nodes = (long)(500000 * scale);
    uint64_t state = 13, digest = 0;
    slot_t *brief = slots_new(BRIEF);
    node_t *root = NULL;
    for (long i = 0; i < nodes; i++) {
        slot_t *slot = &brief[random_below(&state, BRIEF)];
        digest += slot_clear(slot);
        tree_insert(&root, random_next(&state), NULL);
        slot_fill(slot, 16 + random_below(&state, 200), random_next(&state));
    }
    for (int round = 0; round < 12; round++) digest += tree_sum(root);
    for (long i = 0; i < 4 * nodes; i++) {
        uint64_t key = random_next(&state);
        const node_t *node = root;
        while (node && node->child[key > node->key]) node = node->child[key > node->key];
        if (node) digest ^= node->key;
    }
    tree_drop(root);
    return digest + slots_clear(brief, BRIEF);
}

/* ---- strings -------------------------------------------------------------------------------------------------------
 */

static char *string_join(const char *a, const char *b) {
    size_t na = strlen(a), nb = strlen(b);
    char *joined = must_malloc(na + nb + 2);
    memcpy(joined, a, na);
    joined[na] = ' ';
    memcpy(joined + na + 1, b, nb + 1);
    return joined;
}

/* The words of a string in a growing array, as a parser would collect them; returns a digest and frees all. */
static uint64_t string_split(const char *s) {
    size_t count = 0, room = 0;
    char **words = NULL;
    while (*s) {
        size_t length = strcspn(s, " ");
        if (count == room) words = must(realloc(words, (room = room ? room * 2 : 4) * sizeof *words));
        words[count++] = must(strndup(s, length));
        s += length + (s[length] == ' ');
    }
    uint64_t digest = count;
    for (size_t i = 0; i < count; i++) {
        digest = digest * 31 + string_hash(words[i]);
        free(words[i]);
    }
    free(words);
    return digest;
}

uint64_t synth_strings(double scale) {
    enum { STRINGS = 5000, LONGEST = 400 };
    uint64_t state = 14, digest = 0;
    char **table = must(calloc(STRINGS, sizeof *table));
    for (int i = 0; i < STRINGS; i++) table[i] = string_random(&state, 2, 12);
    for (long step = (long)(700000 * scale); step-- > 0;) {
        char **into = &table[random_below(&state, STRINGS)];
        char *joined = string_join(*into, table[random_below(&state, STRINGS)]);
        free(*into);
        *into = joined;
        if (strlen(joined) <= LONGEST) continue;
        digest += string_split(joined);
        free(joined);
        *into = string_random(&state, 2, 12);
    }
    for (int i = 0; i < STRINGS; i++) {
        digest ^= string_hash(table[i]);
        free(table[i]);
    }
    free(table);
    return digest;
}

/* ---- vectors and buffers --------------------------------------------------------------------------------------------
 */

typedef struct vector {
    uint64_t *item;
    size_t count, room;
} vector_t;

static void vector_push(vector_t *vector, uint64_t value) {
    if (vector->count == vector->room) {
        vector->room = vector->room ? vector->room + vector->room / 2 : 16;
        vector->item = must(realloc(vector->item, vector->room * sizeof *vector->item));
    }
    vector->item[vector->count++] = value;
}

static uint64_t vector_drop(vector_t *vector) {
    uint64_t digest = vector->count;
    for (size_t i = 0; i < vector->count; i++) digest = digest * 3 + vector->item[i];
    free(vector->item);
    *vector = (vector_t){NULL, 0, 0};
    return digest;
}

uint64_t synth_vectors(double scale) {
    enum { VECTORS = 64, LARGEST = 1 << 20, RUN = 5000 };
    uint64_t state = 15, digest = 0;
    vector_t vector[VECTORS] = {{NULL, 0, 0}};
    for (long step = (long)(35000 * scale); step-- > 0;) {
        vector_t *v = &vector[random_below(&state, VECTORS)];
        for (uint64_t i = 0; i < RUN; i++) vector_push(v, i ^ state);
        if (v->count > LARGEST || random_below(&state, 100) == 0) digest ^= vector_drop(v);
    }
    for (int i = 0; i < VECTORS; i++) digest ^= vector_drop(&vector[i]);
    return digest;
}

uint64_t synth_buffers(double scale) {
    enum { BUFFERS = 4000, LARGEST = 2000 };
    uint64_t state = 16, digest = 0;
    vector_t *buffer = must(calloc(BUFFERS, sizeof *buffer));
    for (long step = (long)(9e6 * scale); step-- > 0;) {
        vector_t *b = &buffer[random_below(&state, BUFFERS)];
        b->room = b->count + 1 + random_below(&state, 8);
        b->item = must(realloc(b->item, b->room * sizeof *b->item));
        while (b->count < b->room) b->item[b->count] = (uint64_t)b->count, b->count++;
        if (b->count > LARGEST / 8) digest += vector_drop(b);
    }
    for (int i = 0; i < BUFFERS; i++) digest += vector_drop(&buffer[i]);
    free(buffer);
    return digest;
}

/* ---- random sizes, random lifetimes
 * ----------------------------------------------------------------------------------- */

/* A share of requests in each range, as compilers, interpreters and servers make them: mostly under 128 bytes, some
 * pages, rarely more. */
static uint32_t size_realistic(uint64_t *state) {
    static const struct {
        uint32_t share, from, to;
    } range[] = {{25, 1, 16},    {30, 17, 32},    {18, 33, 64},     {12, 65, 128},    {7, 129, 256},
                 {4, 257, 1024}, {2, 1025, 4096}, {1, 4097, 16384}, {1, 16385, 65536}};
    uint32_t draw = random_below(state, 100);
    for (size_t i = 0; i < sizeof range / sizeof *range; i++) {
        if (draw < range[i].share) return range[i].from + random_below(state, range[i].to - range[i].from + 1);
        draw -= range[i].share;
    }
    return 16;
}

/* Three generations of slots: nine in ten blocks go to the young ones and soon die there. */
uint64_t synth_sizes(double scale) {
    enum { YOUNG = 200, MIDDLE = 5000, OLD = 60000 };
    uint64_t state = 17, digest = 0;
    slot_t *slots = slots_new(YOUNG + MIDDLE + OLD);
    for (long step = (long)(12e6 * scale); step-- > 0;) {
        uint32_t draw = random_below(&state, 100);
        uint32_t at = draw < 90   ? random_below(&state, YOUNG)
                      : draw < 98 ? YOUNG + random_below(&state, MIDDLE)
                                  : YOUNG + MIDDLE + random_below(&state, OLD);
        digest += slot_clear(&slots[at]);
        slot_fill(&slots[at], size_realistic(&state), random_next(&state));
    }
    return digest + slots_clear(slots, YOUNG + MIDDLE + OLD);
}

uint64_t synth_random_body(double scale, uint64_t seed) {
    enum { SLOTS = 1 << 14 };
    uint64_t state = seed, digest = 0;
    slot_t *slots = slots_new(SLOTS);
    for (long step = (long)(14e6 * scale); step-- > 0;) {
        slot_t *slot = &slots[random_below(&state, SLOTS)];
        uint32_t top = 8u << random_below(&state, 8);
        digest += slot_clear(slot);
        slot_fill(slot, top + random_below(&state, top), random_next(&state));
    }
    return digest + slots_clear(slots, SLOTS);
}

uint64_t synth_random(double scale) {
    return synth_random_body(scale, 18);
}

uint64_t synth_large(double scale) {
    enum { SLOTS = 400, PAGE = 4096 };
    uint64_t state = 19, digest = 0;
    slot_t *slots = slots_new(SLOTS);
    for (long step = (long)(300000 * scale); step-- > 0;) {
        slot_t *slot = &slots[random_below(&state, SLOTS)];
        uint32_t size = (32u << 10) << random_below(&state, 5);
        size += random_below(&state, size);
        digest += slot->block ? slot->key : 0;
        if (slot->block) block_check(slot->block, PAGE, slot->key);
        free(slot->block);
        *slot = (slot_t){must_malloc(size), size, random_next(&state)};
        for (uint32_t at = 0; at + PAGE <= size; at += PAGE) memcpy((char *)slot->block + at, &slot->key, 8);
        block_fill(slot->block, PAGE, slot->key);
    }
    for (int i = 0; i < SLOTS; i++) free(slots[i].block);
    free(slots);
    return digest;
}

uint64_t synth_huge(double scale) {
    enum { SLOTS = 20, PAGE = 4096, MIB = 1 << 20 };
    uint64_t state = 20, digest = 0;
    slot_t *slots = slots_new(SLOTS);
    for (long step = (long)(400 * scale) + 1; step-- > 0;) {
        slot_t *slot = &slots[random_below(&state, SLOTS)];
        digest += slot_clear(slot);
        slot_fill(slot, 5 * MIB + random_below(&state, 20 * MIB), random_next(&state));
    }
    return digest + slots_clear(slots, SLOTS);
}

/* Requests, pictures, packets: each line of it is written and read again before the next few come. */
uint64_t synth_images(double scale) {
    enum { BATCH = 48, KIB = 1 << 10 };
    uint64_t state = 23, digest = 0;
    slot_t *slots = slots_new(BATCH);
    for (long batch = (long)(60 * scale) + 5; batch-- > 0;) {
        for (size_t i = 0; i < BATCH; i++)
            slot_fill(&slots[i], 512 * KIB + random_below(&state, 1536 * KIB), random_next(&state));
        for (size_t i = 0; i < BATCH; i++) digest += slot_clear(&slots[i]);
    }
    slots_clear(slots, BATCH);
    return digest;
}

/* As much as comes, into a buffer that doubles, and is cut to size at the end. */
static void read_body(slot_t *body, size_t size, uint64_t key) {
    enum { PIECE = 16 << 10 };
    size_t room = 4 * PIECE;
    body->block = must_malloc(room);
    for (size_t at = 0; at < size; at += PIECE) {
        if (at == room) body->block = must(realloc(body->block, room *= 2));
        memset((char *)body->block + at, (int)key, PIECE);
    }
    body->block = must(realloc(body->block, body->size = size));
}

uint64_t synth_bodies(double scale) {
    enum { SLOTS = 24, MIB = 1 << 20, KIB = 1 << 10 };
    uint64_t state = 24, digest = 0;
    slot_t bodies[SLOTS] = {{0}};
    for (long step = (long)(4000 * scale) + 1; step-- > 0;) {
        slot_t *body = &bodies[random_below(&state, SLOTS)];
        if (body->block) digest += ((unsigned char *)body->block)[body->size - 1];
        free(body->block);
        size_t least = (size_t)(64 * KIB) << random_below(&state, 6);
        read_body(body, least + random_below(&state, least), random_next(&state));
    }
    for (int i = 0; i < SLOTS; i++) free(bodies[i].block);
    return digest;
}

uint64_t synth_frames(double scale) {
    enum { SLOTS = 4, KIB = 1 << 10 };
    uint64_t state = 22, digest = 0;
    slot_t *slots = slots_new(SLOTS);
    for (long step = (long)(10000 * scale) + 1; step-- > 0;) {
        slot_t *slot = &slots[random_below(&state, SLOTS)];
        size_t least = (size_t)(32 * KIB) << random_below(&state, 7);
        digest += slot_clear(slot);
        slot_fill(slot, least + random_below(&state, least), random_next(&state));
    }
    return digest + slots_clear(slots, SLOTS);
}

/* ---- bignum: numbers in base 1e9, every result a new block
 * ------------------------------------------------------------- */

typedef struct number {
    uint32_t digits;
    uint32_t digit[];
} number_t;

enum { BASE = 1000000000 };

static number_t *number_new(uint32_t digits) {
    number_t *n = must_malloc(sizeof *n + digits * sizeof(uint32_t));
    n->digits = digits;
    return n;
}

static number_t *number_from(uint32_t value) {
    number_t *n = number_new(1);
    n->digit[0] = value;
    return n;
}

static number_t *number_add(const number_t *a, const number_t *b) {
    if (a->digits < b->digits) return number_add(b, a);
    number_t *sum = number_new(a->digits + 1);
    uint32_t carry = 0;
    for (uint32_t i = 0; i < a->digits; i++) {
        uint32_t digit = a->digit[i] + (i < b->digits ? b->digit[i] : 0) + carry;
        carry = digit >= BASE;
        sum->digit[i] = digit - (carry ? BASE : 0);
    }
    sum->digit[a->digits] = carry;
    sum->digits -= !carry;
    return sum;
}

static number_t *number_scale(const number_t *a, uint32_t factor) {
    number_t *product = number_new(a->digits + 1);
    uint64_t carry = 0;
    for (uint32_t i = 0; i < a->digits; i++) {
        carry += (uint64_t)a->digit[i] * factor;
        product->digit[i] = (uint32_t)(carry % BASE);
        carry /= BASE;
    }
    product->digit[a->digits] = (uint32_t)carry;
    product->digits -= carry == 0;
    return product;
}

static uint32_t number_rest(const number_t *a, uint32_t divisor) {
    uint64_t rest = 0;
    for (uint32_t i = a->digits; i-- > 0;) rest = (rest * BASE + a->digit[i]) % divisor;
    return (uint32_t)rest;
}

/* x(n+1) = f*x(n) + x(n-1), restarted at eight digits: the convergents of a continued fraction. */
uint64_t synth_bignum(double scale) {
    uint64_t digest = 0, state = 21;
    number_t *before = number_from(1), *now = number_from(2);
    for (long step = (long)(27e6 * scale); step-- > 0;) {
        number_t *scaled = number_scale(now, 2 + random_below(&state, 1000));
        number_t *next = number_add(scaled, before);
        free(scaled);
        free(before);
        before = now;
        now = next;
        if (now->digits < 8) continue;
        digest = digest * 31 + number_rest(now, 999983);
        free(before);
        free(now);
        before = number_from(1);
        now = number_from(3);
    }
    free(before);
    free(now);
    return digest;
}

/* ---- sets
 * -------------------------------------------------------------------------------------------------------------- */

typedef struct cover {
    uint32_t count, words;
    uint64_t **set;
} cover_t;

static cover_t cover_random(uint64_t *state, uint32_t count, uint32_t words) {
    cover_t cover = {count, words, must_malloc(count * sizeof(uint64_t *))};
    for (uint32_t i = 0; i < count; i++) {
        cover.set[i] = must_malloc(words * sizeof(uint64_t));
        for (uint32_t w = 0; w < words; w++) cover.set[i][w] = random_next(state) | random_next(state);
    }
    return cover;
}

static uint64_t cover_drop(cover_t *cover) {
    uint64_t digest = cover->count;
    for (uint32_t i = 0; i < cover->count; i++) {
        for (uint32_t w = 0; w < cover->words; w++) digest = (digest ^ cover->set[i][w]) * 3;
        free(cover->set[i]);
    }
    free(cover->set);
    return digest;
}

/* Every pair's intersection; those with few members are dropped at once. */
static cover_t cover_intersect(const cover_t *a, const cover_t *b) {
    cover_t result = {0, a->words, must_malloc((size_t)a->count * b->count * sizeof(uint64_t *))};
    for (uint32_t i = 0; i < a->count; i++)
        for (uint32_t j = 0; j < b->count; j++) {
            uint64_t *set = must_malloc(a->words * sizeof *set);
            int members = 0;
            for (uint32_t w = 0; w < a->words; w++)
                members += __builtin_popcountll(set[w] = a->set[i][w] & b->set[j][w]);
            if (members * 16 < (int)a->words * 64 * 9)
                free(set);
            else
                result.set[result.count++] = set;
        }
    result.set = must(realloc(result.set, (result.count + 1) * sizeof *result.set));
    return result;
}

uint64_t synth_sets(double scale) {
    uint64_t state = 22, digest = 0;
    for (long step = (long)(50000 * scale); step-- > 0;) {
        uint32_t words = 1 + random_below(&state, 6);
        cover_t a = cover_random(&state, 10 + random_below(&state, 30), words);
        cover_t b = cover_random(&state, 10 + random_below(&state, 30), words);
        cover_t both = cover_intersect(&a, &b);
        digest ^= cover_drop(&a);
        digest += cover_drop(&both);
        digest ^= cover_drop(&b);
    }
    return digest;
}

/* ---- octree
 * ------------------------------------------------------------------------------------------------------------- */

typedef struct cell {
    struct cell *child[8];
    double mass, centre[3];
    int32_t body; /* index of its only body, or -1 */
} cell_t;

typedef struct body {
    double at[3], speed[3];
} body_t;

static cell_t *cell_new(const body_t *bodies, int32_t body) {
    cell_t *cell = must(calloc(1, sizeof *cell));
    cell->body = body;
    cell->mass = body >= 0;
    if (body >= 0) memcpy(cell->centre, bodies[body].at, sizeof cell->centre);
    return cell;
}

static int octant(const double at[3], double middle[3], double half) {
    int which = 0;
    for (int axis = 0; axis < 3; axis++) {
        int high = at[axis] >= middle[axis];
        which |= high << axis;
        middle[axis] += high ? half / 2 : -half / 2;
    }
    return which;
}

static void octree_insert(cell_t *cell, const body_t *bodies, int32_t body) {
    double middle[3] = {0.5, 0.5, 0.5}, half = 0.5;
    for (int depth = 0; depth < 40; depth++, half /= 2) {
        double resident_middle[3] = {middle[0], middle[1], middle[2]};
        if (cell->body >= 0) {
            cell->child[octant(bodies[cell->body].at, resident_middle, half)] = cell_new(bodies, cell->body);
            cell->body = -1;
        }
        cell->mass += 1;
        for (int axis = 0; axis < 3; axis++) cell->centre[axis] += bodies[body].at[axis];
        cell_t **child = &cell->child[octant(bodies[body].at, middle, half)];
        if (!*child) {
            *child = cell_new(bodies, body);
            return;
        }
        cell = *child;
    }
}

/* Adds to pull[] what a cell's bodies exert at a point: near cells (closer than their size) child by child. */
static void octree_pull(const cell_t *cell, const double at[3], double size, double pull[3]) {
    double way[3], squared = 1e-9, mass = cell->mass;
    for (int axis = 0; axis < 3; axis++) {
        way[axis] = cell->centre[axis] / mass - at[axis];
        squared += way[axis] * way[axis];
    }
    if (cell->body < 0 && squared < size * size * 2) {
        for (int i = 0; i < 8; i++)
            if (cell->child[i]) octree_pull(cell->child[i], at, size / 2, pull);
        return;
    }
    for (int axis = 0; axis < 3; axis++) pull[axis] += mass * way[axis] / squared;
}

static void octree_drop(cell_t *cell) {
    for (int i = 0; i < 8; i++)
        if (cell->child[i]) octree_drop(cell->child[i]);
    free(cell);
}

static void body_move(body_t *body, const cell_t *root) {
    double pull[3] = {0, 0, 0};
    octree_pull(root, body->at, 1, pull);
    for (int axis = 0; axis < 3; axis++) {
        body->speed[axis] += 1e-9 * pull[axis];
        double at = body->at[axis] + body->speed[axis];
        body->at[axis] = at >= 0 && at < 1 ? at : 0.5;
    }
}

uint64_t synth_octree(double scale) {
    const int32_t bodies = (int32_t)(20000 * (scale < 1 ? scale : 1)) + 10;
    uint64_t state = 23, digest = 0;
    body_t *body = must(calloc((size_t)bodies, sizeof *body));
    for (int32_t i = 0; i < bodies; i++)
        for (int axis = 0; axis < 3; axis++) body[i].at[axis] = (double)(random_next(&state) >> 11) * 0x1p-53;
    for (int step = 0; step < (scale < 1 ? 8 : (int)(8 * scale)); step++) {
        cell_t *root = cell_new(body, -1);
        for (int32_t i = 0; i < bodies; i++) octree_insert(root, body, i);
        for (int32_t i = 0; i < bodies; i++) body_move(&body[i], root);
        octree_drop(root);
    }
    for (int32_t i = 0; i < bodies; i++) {
        uint64_t bits;
        memcpy(&bits, &body[i].at[0], sizeof bits);
        digest = digest * 31 + bits;
    }
    free(body);
    return digest;
}

/* ---- fixed sizes and batches
 * --------------------------------------------------------------------------------------------- */

uint64_t synth_fixed_body(double scale, uint64_t seed) {
    enum { DEEPEST = 400 };
    uint64_t state = seed, digest = 0;
    void *stack[DEEPEST];
    for (long step = (long)(130000 * scale); step-- > 0;) {
        uint32_t size = 8 + random_below(&state, 1000), depth = 25u << random_below(&state, 5);
        for (uint32_t i = 0; i < depth; i++) stack[i] = block_new(size, size ^ i);
        for (uint32_t i = depth; i-- > 0;) block_delete(stack[i], size, size ^ i);
        digest += size * depth;
    }
    return digest;
}

uint64_t synth_fixed(double scale) {
    return synth_fixed_body(scale, 24);
}

uint64_t synth_batches(double scale) {
    enum { BATCH = 2000, LATE = 8 };
    uint64_t state = 25, digest = 0;
    slot_t *late[LATE] = {NULL};
    for (long step = (long)(9000 * scale); step-- > 0;) {
        slot_t *batch = slots_new(BATCH);
        for (uint32_t i = 0; i < BATCH; i++) slot_fill(&batch[i], 1 + i / 4 + random_below(&state, 8), i ^ state);
        if (step % 2) {
            for (uint32_t i = BATCH; i-- > 0;) digest += slot_clear(&batch[i]);
            free(batch);
            continue;
        }
        slot_t **place = &late[random_below(&state, LATE)];
        if (*place) digest += slots_clear(*place, BATCH);
        *place = batch;
    }
    for (int i = 0; i < LATE; i++)
        if (late[i]) digest += slots_clear(late[i], BATCH);
    return digest;
}

/* ---- lru
 * ------------------------------------------------------------------------------------------------------------------ */

typedef struct entry {
    struct entry *same_hash, *newer, *older;
    uint64_t key;
    uint32_t size;
    void *value;
} entry_t;

enum { BUCKETS = 1 << 15, CACHED = 20000 };

typedef struct cache {
    entry_t *bucket[BUCKETS];
    entry_t *newest, *oldest;
    uint32_t count;
} cache_t;

static void cache_unlink(cache_t *cache, entry_t *entry) {
    *(entry->newer ? &entry->newer->older : &cache->newest) = entry->older;
    *(entry->older ? &entry->older->newer : &cache->oldest) = entry->newer;
}

static void cache_push(cache_t *cache, entry_t *entry) {
    entry->newer = NULL;
    entry->older = cache->newest;
    *(cache->newest ? &cache->newest->newer : &cache->oldest) = entry;
    cache->newest = entry;
}

static uint64_t cache_evict(cache_t *cache) {
    entry_t *entry = cache->oldest, **link = &cache->bucket[entry->key % BUCKETS];
    while (*link != entry) link = &(*link)->same_hash;
    *link = entry->same_hash;
    cache_unlink(cache, entry);
    cache->count--;
    uint64_t key = entry->key;
    block_delete(entry->value, entry->size, key);
    free(entry);
    return key;
}

/* Returns whether the key was there. */
static int cache_get(cache_t *cache, uint64_t key, uint32_t size) {
    entry_t *entry = cache->bucket[key % BUCKETS];
    while (entry && entry->key != key) entry = entry->same_hash;
    if (entry) {
        cache_unlink(cache, entry);
        cache_push(cache, entry);
        return 1;
    }
    entry = must_malloc(sizeof *entry);
    *entry = (entry_t){cache->bucket[key % BUCKETS], NULL, NULL, key, size, block_new(size, key)};
    cache->bucket[key % BUCKETS] = entry;
    cache_push(cache, entry);
    cache->count++;
    return 0;
}

uint64_t synth_lru(double scale) {
    uint64_t state = 26, digest = 0;
    cache_t *cache = must(calloc(1, sizeof *cache));
    for (long step = (long)(16e6 * scale); step-- > 0;) {
        uint64_t draw = random_below(&state, 1 << 16);
        uint64_t key = (draw * draw) >> 16; /* small keys are popular */
        digest += (uint64_t)cache_get(cache, key * 0x9e3779b97f4a7c15u, 16 + random_below(&state, 400));
        while (cache->count > CACHED) digest ^= cache_evict(cache);
    }
    while (cache->count) digest ^= cache_evict(cache);
    free(cache);
    return digest;
}

/* ---- document
 * ----------------------------------------------------------------------------------------------------------------- */

typedef struct value {
    enum { NUMBER, TEXT, ARRAY, OBJECT } kind;
    uint32_t count;
    union {
        double number;
        char *text;
        struct value **item; /* array: values; object: name, value, name, value */
    };
} value_t;

static value_t *value_random(uint64_t *state, int depth) {
    value_t *value = must(calloc(1, sizeof *value));
    uint32_t draw = random_below(state, 10);
    value->kind = depth == 0 ? (draw < 5 ? NUMBER : TEXT)
                  : draw < 2 ? NUMBER
                  : draw < 4 ? TEXT
                  : draw < 7 ? ARRAY
                             : OBJECT;
    if (value->kind == NUMBER) value->number = (double)random_below(state, 1000);
    if (value->kind == TEXT) value->text = string_random(state, 1, 50);
    if (value->kind < ARRAY) return value;
    for (uint32_t want = random_below(state, 8) * 2; value->count < want;) {
        if ((value->count & (value->count - 1)) == 0)
            value->item = must(realloc(value->item, (value->count ? value->count * 2 : 1) * sizeof(value_t *)));
        int name = value->kind == OBJECT && value->count % 2 == 0;
        value->item[value->count++] = value_random(state, name ? 0 : depth - 1);
    }
    return value;
}

static uint64_t value_drop(value_t *value) {
    uint64_t digest = (uint64_t)value->kind + 1;
    if (value->kind == NUMBER) digest += (uint64_t)value->number;
    if (value->kind == TEXT) {
        digest += string_hash(value->text);
        free(value->text);
    }
    if (value->kind >= ARRAY) {
        for (uint32_t i = 0; i < value->count; i++) digest = digest * 31 + value_drop(value->item[i]);
        free(value->item);
    }
    free(value);
    return digest;
}

uint64_t synth_document(double scale) {
    enum { KEPT = 50 };
    uint64_t state = 27, digest = 0;
    value_t *kept[KEPT] = {NULL};
    for (long step = (long)(5000 * scale); step-- > 0;) {
        value_t **place = &kept[random_below(&state, KEPT)];
        if (*place) digest += value_drop(*place);
        *place = value_random(&state, 6);
    }
    for (int i = 0; i < KEPT; i++)
        if (kept[i]) digest += value_drop(kept[i]);
    return digest;
}

/* ---- list
 * ------------------------------------------------------------------------------------------------------------------------
 */

typedef struct link {
    struct link *next;
    uint64_t key;
} link_t;

static link_t *list_merge(link_t *a, link_t *b) {
    link_t head, *last = &head;
    while (a && b) {
        link_t **smaller = a->key <= b->key ? &a : &b;
        last = last->next = *smaller;
        *smaller = (*smaller)->next;
    }
    last->next = a ? a : b;
    return head.next;
}

static link_t *list_sort(link_t *list, size_t count) {
    if (count < 2) {
        if (list) list->next = NULL;
        return list;
    }
    link_t *middle = list;
    for (size_t i = 0; i < count / 2; i++) middle = middle->next;
    link_t *right = list_sort(middle, count - count / 2); /* cuts its own end; the left half counts */
    return list_merge(list_sort(list, count / 2), right);
}

static link_t *list_random(uint64_t *state, size_t count) {
    link_t *list = NULL;
    while (count--) {
        link_t *first = must_malloc(sizeof *first);
        *first = (link_t){list, random_next(state) >> 40};
        list = first;
    }
    return list;
}

/* Removes every link whose key is odd, halves the other keys; returns how many stay. */
static size_t list_thin(link_t **list) {
    size_t kept = 0;
    while (*list) {
        link_t *first = *list;
        if (first->key % 2) {
            *list = first->next;
            free(first);
            continue;
        }
        first->key /= 2;
        kept++;
        list = &first->next;
    }
    return kept;
}

uint64_t synth_lists(double scale) {
    uint64_t state = 28, digest = 0;
    for (long round = (long)(130 * scale) + 1; round-- > 0;) {
        size_t count = 30000;
        link_t *list = list_random(&state, count);
        while (count > 10) {
            list = list_sort(list, count);
            digest = digest * 31 + list->key;
            count = list_thin(&list);
        }
        for (link_t *next; list; list = next) {
            next = list->next;
            free(list);
        }
    }
    return digest;
}

/* ---- phases, matrices
 * ---------------------------------------------------------------------------------------------------------- */

uint64_t synth_phases(double scale) {
    const size_t total = (size_t)(25e6 * scale) + 100000;
    uint64_t digest = 0;
    for (int round = 0; round < 4; round++) {
        slot_t *kept = slots_new(total / 8);
        size_t kept_count = 0;
        for (uint32_t size = 24; size < 3000; size += size / 2) {
            size_t count = total / size;
            slot_t *slots = slots_new(count);
            for (size_t i = 0; i < count; i++) slot_fill(&slots[i], size, i ^ size);
            for (size_t i = 0; i < count; i += 8) {
                kept[kept_count++] = slots[i];
                slots[i].block = NULL;
            }
            digest += slots_clear(slots, count);
        }
        digest += slots_clear(kept, kept_count);
    }
    return digest;
}

static double **matrix_new(uint32_t size) {
    double **row = must_malloc(size * sizeof *row);
    for (uint32_t i = 0; i < size; i++) row[i] = must(calloc(size, sizeof **row));
    return row;
}

static void matrix_drop(double **row, uint32_t size) {
    for (uint32_t i = 0; i < size; i++) free(row[i]);
    free(row);
}

static double **matrix_multiply(double **a, double **b, uint32_t size) {
    double **product = matrix_new(size);
    for (uint32_t i = 0; i < size; i++)
        for (uint32_t k = 0; k < size; k++) {
            if (a[i][k] == 0) continue;
            for (uint32_t j = 0; j < size; j++) product[i][j] += a[i][k] * b[k][j];
        }
    return product;
}

static double **matrix_sparse(uint64_t *state, uint32_t size) {
    double **row = matrix_new(size);
    for (uint32_t i = 0; i < size; i++) row[i][random_below(state, size)] = random_below(state, 10);
    return row;
}

uint64_t synth_matrices(double scale) {
    uint64_t state = 29, digest = 0;
    for (long step = (long)(60000 * scale); step-- > 0;) {
        uint32_t size = 8 + random_below(&state, 90);
        double **a = matrix_sparse(&state, size), **b = matrix_sparse(&state, size);
        double **product = matrix_multiply(a, b, size);
        matrix_drop(a, size);
        matrix_drop(b, size);
        for (uint32_t i = 0; i < size; i++) digest += (uint64_t)product[i][i];
        matrix_drop(product, size);
    }
    return digest;
}
