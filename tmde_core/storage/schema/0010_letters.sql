-- Search finds Latin letters with a stroke, such as those of Vietnamese, Polish and Danish, by the plain letters. Only
-- texts with such a letter are prepared anew.
UPDATE traces SET query = query
WHERE query GLOB '*[đĐðÐħĦıłŁøØŧŦþÞæÆœŒǽǼǣǢǿǾ]*' OR final_answer GLOB '*[đĐðÐħĦıłŁøØŧŦþÞæÆœŒǽǼǣǢǿǾ]*';
UPDATE templates SET name = name
WHERE name || description || domain || methodology || keywords || body GLOB '*[đĐðÐħĦıłŁøØŧŦþÞæÆœŒǽǼǣǢǿǾ]*';
