#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#define TWICE(x) x x
#define MANY(x) TWICE(TWICE(TWICE(TWICE(TWICE(x)))))
static int values[] = {MANY(MANY(1, 2, 3, ))};
struct node { struct node *left, *right; int value; };
static struct node *insert(struct node *node, int value) {
    if (!node) {
        node = calloc(1, sizeof *node);
        node->value = value;
    } else if (value < node->value)
        node->left = insert(node->left, value);
    else
        node->right = insert(node->right, value);
    return node;
}
static long sum(const struct node *node) { return node ? node->value + sum(node->left) + sum(node->right) : 0; }
int main(void) {
    struct node *root = NULL;
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) root = insert(root, values[i] * (int)(i * 7919 % 1000));
    printf("%ld\n", sum(root));
    return undeclared_on_purpose;
}
