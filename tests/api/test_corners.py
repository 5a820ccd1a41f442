"""What the real one does in corners where one would not look: names, lists, queries, bodies."""


async def test_the_name_of_a_role_is_what_was_sent_and_another_one_with_blanks_is_another(admin):
    role = await admin.make("role", name="  a  ")
    assert role["name"] == "  a  "
    assert (await admin("GET", f"/roles/{role['id']}")).body["role"]["name"] == "  a  "
    await admin.make("role", name="Case")
    await admin.make("role", name=" Case ")
    again = await admin("POST", "/roles", {"role": {"name": " Case "}})
    assert again.status == 409
